// The running statistics of batch normalisation. Shared by the CPU and CUDA backends.
#pragma once
#include "functors/math.h"
#include "kernels/norm.h"

namespace pydlx::functors {

// running = (1 - momentum) running + momentum value, where the variance is the unbiased one.
template <class A>
struct Running {
  A *mean, *var;
  A keep, momentum, unbiased;
  PYDLX_HD explicit Running(const ChannelNorm& k)
      : mean(static_cast<A*>(k.running_mean)),
        var(static_cast<A*>(k.running_var)),
        keep(static_cast<A>(1 - k.momentum)),
        momentum(static_cast<A>(k.momentum)),
        unbiased(
            static_cast<A>(static_cast<double>(k.batch * k.spatial) / static_cast<double>(k.batch * k.spatial - 1))) {}
  PYDLX_HD void move(std::int64_t channel, A batch_mean, A biased_var) const {
    if (mean) mean[channel] = keep * mean[channel] + momentum * batch_mean;
    if (var) var[channel] = keep * var[channel] + momentum * (unbiased * biased_var);
  }
};

// What evaluation normalises by.
template <class A>
PYDLX_HD void use_running(const ChannelNorm& k, std::int64_t channel) {
  static_cast<A*>(k.mean)[channel] = static_cast<const A*>(k.running_mean)[channel];
  static_cast<A*>(k.rstd)[channel] =
      A(1) / math::sqrt(static_cast<const A*>(k.running_var)[channel] + static_cast<A>(k.eps));
}

}  // namespace pydlx::functors
