#include "core/callsite.h"

namespace pydlx {

CallSiteHooks& callsite_hooks() {
  static CallSiteHooks hooks;
  return hooks;
}
std::string describe_callsite(CallSite site) {
  auto* f = callsite_hooks().describe;
  return f && site ? f(site) : std::string("unknown line");
}

}  // namespace pydlx
