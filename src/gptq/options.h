// Options of the gptq_quant processor, and of linear_quant with method gptq.
#pragma once

namespace laos::gptq {

struct GptqOptions {
  double damp = 0.01;     // of the mean diagonal of the inputs' Gram matrix, added to its diagonal
  bool act_order = true;  // columns with the largest inputs first
  bool refit = false;     // first fit each weight to its quantized inputs by least squares
};

}  // namespace laos::gptq
