// A quantized model whose scales are learned, beside the float model that it shall equal.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "eval/eval_model.h"
#include "hf/quantized_checkpoint.h"
#include "linalg/gemm.h"
#include "model/decoder_layer.h"
#include "model/hidden_states.h"
#include "tune/scale_linears.h"

namespace laos::tune {

// Tokens whose logits, of both models, exist at a time, and rows of a head that are an operand.
inline constexpr int64_t kLogitTokens = 128, kHeadRows = 4096;

// lm_head [vocab_size, hidden_size], some rows at a time, as an operand of products.
class Head {
 public:
  // What `rows` views must outlive this.
  Head(TensorView rows, linalg::ComputeType compute);

  int64_t num_rows() const { return rows_.shape[0]; }
  // logits [n, vocab_size] = x [n, hidden_size] headᵀ.
  void multiply(MatView<const float> x, MatView<float> logits);
  // d_x [n, hidden_size] = d_logits head.
  void multiply_back(MatView<const float> d_logits, MatView<float> d_x);

 private:
  template <class F>
  void for_parts(const F& f);

  TensorView rows_;
  linalg::ComputeType compute_;
  const uint16_t* bits_ = nullptr;  // where the file holds them as products take them
  Buffer<float> wide_;
  Buffer<uint16_t> narrow_rows_, narrow_x_;
};

// Layers are read from the checkpoint, one at a time, in each pass. Keys and values are not rounded
// to a cache's codes, should the checkpoint have scales of one.
class Student {
 public:
  // All arguments must outlive this. Runs the float model over all samples.
  Student(const hf::QuantizedCheckpoint& checkpoint, const eval::EvalModel& teacher,
          const std::vector<std::vector<int32_t>>& samples, linalg::ComputeType compute);

  std::vector<RowValues> log_factors;  // by layer; of those linears that have_factors, 0 at first

  // Mean over the tokens of these samples of KL(float || quantized) of the next token, in nats,
  // and, where not null, its gradients by the log factors, by layer.
  double run(const std::vector<int64_t>& batch, std::vector<RowValues>* gradients);

  // Bytes that one takes, with `num_tokens` in all samples and `batch_tokens` in the largest batch.
  static int64_t size_bytes(const hf::Config& config, int64_t num_tokens, int64_t batch_tokens,
                            linalg::ComputeType compute);

 private:
  class Layer;
  model::LayerSaved<float>& saved(const model::Ragged& batch, bool with_backward);
  double lose(const std::vector<int64_t>& batch, const Mat<float>& x, Mat<float>* d_x);

  const hf::QuantizedCheckpoint& checkpoint_;
  const hf::Config& config_;
  const std::vector<std::vector<int32_t>>& samples_;
  linalg::ComputeType compute_;
  model::HiddenStates targets_;  // what the float model's head reads
  model::Rope<float> rope_;
  Head teacher_head_, head_;
  ScaleLinears linears_;
  Mat<float> final_norm_;
  std::unique_ptr<model::LayerSaved<float>> saved_;
  bool saves_backward_ = false;
  Buffer<float> logits_, wanted_;
};

}  // namespace laos::tune
