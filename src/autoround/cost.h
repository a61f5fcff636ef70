// What train_layer takes, told from shapes alone: operations, memory and files.
#pragma once

#include <cstdint>

#include "autoround/train_layer.h"

namespace laos::autoround {

// `scheme` below: of the linears that are trained, as train_layer gets it.

struct TrainCost {
  double iterations = 0;  // operations whose products are in options.compute
  double flops = 0;       // these and all others
};
// Of training a layer on `samples`: expected, as samples are drawn at random. Routed experts see
// their share of the tokens.
TrainCost train_cost(const hf::Config& config, const LayerScheme& scheme,
                     const TrainOptions& options, const model::Ragged& samples,
                     int64_t layer_idx = 0);

// Bytes at once while a layer is trained, its weights included but for those that are put aside in
// files; without the scratch of threads. `rotates_inputs`: inputs of linears are rotated online.
int64_t train_bytes(const hf::Config& config, const LayerScheme& scheme,
                    const TrainOptions& options, const model::Ragged& samples, bool rotates_inputs,
                    int64_t layer_idx = 0);
// Of these: Ŵ and the offsets.
int64_t applied_bytes(const hf::Config& config, const LayerScheme& scheme,
                      const TrainOptions& options);
// Of the files: weights in f32 and two sets of codes.
int64_t aside_bytes(const hf::Config& config, const LayerScheme& scheme);

}  // namespace laos::autoround
