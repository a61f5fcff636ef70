// What a decoder layer of a checkpoint has beside the weights of its linears.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/dtype.h"
#include "core/tensor.h"
#include "hf/quantized_checkpoint.h"
#include "model/checkpoint.h"
#include "model/online_transform.h"

namespace laos::eval {

// The norms of a layer, its routers and the biases of its linears, the part of LayerWeights that is
// small. `find` gives a tensor by its name.
model::LayerWeights small_weights(const hf::Config& config, int64_t layer_idx,
                                  const std::function<const TensorView&(const std::string&)>& find);

// What is done to the inputs of a layer's linears; members of a group have the same pair. Products
// with the right and the left matrix are rounded to these dtypes.
model::OnlineTransforms online_transforms(const hf::QuantizedCheckpoint& checkpoint,
                                          int64_t layer_idx, DType right_dtype = DType::kF32,
                                          DType left_dtype = DType::kF32);

}  // namespace laos::eval
