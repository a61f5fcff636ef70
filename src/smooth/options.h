// Options of the iter_smooth processor.
#pragma once

namespace laos::smooth {

// How large an input channel is.
enum class Statistic {
  kPeak,  // its largest |x|, which is one token's
  kL4,    // (mean x⁴)^(1/4) over all tokens
  // kL4 of x over its token's rms: no token counts for more than another, however large it is.
  kTokenL4,
};

struct SmoothOptions {
  double alpha = 0.9;       // in (0, 1): how much of the activations' range moves into the weights
  double scale_min = 1e-5;  // in (0, 1)
  Statistic statistic = Statistic::kPeak;
  // Which pairs of modules; "linear-linear" has no pair in Qwen3.
  bool norm_linear = true;
  bool ov = true;
  bool up_down = true;
};

}  // namespace laos::smooth
