// Reads the signature of a row (bind/schema.h) into names, kinds and defaults of its parameters.
#pragma once
#include "bind/schema.h"

namespace pydlx::bind {

// Throws std::runtime_error for a signature that is not of the language of bind/schema.h: a mistake in the source.
Schema parse_signature(const OpRow& row);

}  // namespace pydlx::bind
