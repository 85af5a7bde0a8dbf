// What every bind/ops_<family>.cpp needs. Each defines `void bind_<family>(OpRegistry&)`; the build finds and calls
// them all.
#pragma once
#include "autograd/node.h"
#include "bind/schema.h"
