// Options of the flatquant processor.
#pragma once

namespace laos::flatquant {

// Which pairs of matrices are tried in front of a group of linears; the best on calibration tokens
// that none of them was fitted to is kept.
enum class Method {
  kNone,      // the identity
  kHadamard,  // a Hadamard matrix each
  kClosed,    // fitted to inputs and weights, in closed form
  kAuto,      // all of these
  kTrain      // all of these, and the best of them trained
};

struct FlatquantOptions {
  Method method = Method::kAuto;
  bool clip = true;  // false: clip_ratio is 1
};

}  // namespace laos::flatquant
