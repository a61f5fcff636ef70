#include "tune/student.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/threads.h"
#include "eval/layer_parts.h"
#include "hf/model_tensors.h"
#include "model/checkpoint.h"
#include "model/kernels/elementwise.h"
#include "model/online_transform.h"
#include "tune/operand.h"

namespace laos::tune {

using linalg::ComputeType;
using linalg::Trans;
using model::Linear;

Head::Head(TensorView rows, ComputeType compute) : rows_(std::move(rows)), compute_(compute) {
  if (compute == ComputeType::kBf16 && rows_.dtype == DType::kBF16 &&
      reinterpret_cast<uintptr_t>(rows_.data) % alignof(uint16_t) == 0)
    bits_ = reinterpret_cast<const uint16_t*>(rows_.data);
}

// f(begin, end, part): rows of the head as an operand.
template <class F>
void Head::for_parts(const F& f) {
  const int64_t cols = rows_.shape[1];
  for (int64_t begin = 0; begin < num_rows(); begin += kHeadRows) {
    const int64_t end = std::min(begin + kHeadRows, num_rows());
    if (bits_ != nullptr) {
      f(begin, end, Operand{{}, {bits_ + begin * cols, end - begin, cols, cols}});
      continue;
    }
    const MatView<float> wide = grown(wide_, end - begin, cols);
    model::rows_to_f32(rows_, begin, end, wide.data);
    f(begin, end, operand_of(wide, compute_, narrow_rows_));
  }
}

void Head::multiply(MatView<const float> x, MatView<float> logits) {
  const Operand a = operand_of(x, compute_, narrow_x_);
  for_parts([&](int64_t begin, int64_t end, const Operand& part) {
    tune::multiply(a, Trans::kYes, part, false, logits.slice_cols(begin, end));
  });
}

void Head::multiply_back(MatView<const float> d_logits, MatView<float> d_x) {
  for_parts([&](int64_t begin, int64_t end, const Operand& part) {
    tune::multiply(operand_of(d_logits.slice_cols(begin, end), compute_, narrow_x_), Trans::kNo,
                   part, begin > 0, d_x);
  });
}

namespace {

// KL(teacher || student) of one token in nats; the student's logits become its derivative by them,
// times `weight`, the teacher's are overwritten. `room` [n].
double divergence(float* teacher, float* student, float weight, float* room, int64_t n) {
  const auto log_sum = [&](float* logits) {  // which become probabilities
    const float* const top = std::max_element(logits, logits + n);
    const double max = *top;
    model::kernels::softmax(logits, 1.0f, n);
    return max - std::log(static_cast<double>(*top));
  };
  for (int64_t j = 0; j < n; ++j) room[j] = teacher[j] - student[j];
  const double difference = log_sum(student) - log_sum(teacher);
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += static_cast<double>(teacher[j]) * room[j];
  for (int64_t j = 0; j < n; ++j) student[j] = weight * (student[j] - teacher[j]);
  return std::max(0.0, sum + difference);
}

}  // namespace

Student::Student(const hf::QuantizedCheckpoint& checkpoint, const eval::EvalModel& teacher,
                 const std::vector<std::vector<int32_t>>& samples, ComputeType compute)
    : checkpoint_(checkpoint),
      config_(checkpoint.config()),
      samples_(samples),
      compute_(compute),
      targets_(eval::final_hidden(teacher, samples)),
      rope_(config_, model::longest_sample(targets_.samples)),
      teacher_head_(teacher.lm_head(), compute),
      head_(checkpoint.weight(hf::lm_head_name(config_)), compute),
      linears_(checkpoint, compute),
      final_norm_(to_f32(checkpoint.weight(hf::final_norm_name(config_)))) {
  log_factors.resize(static_cast<size_t>(config_.num_hidden_layers));
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i)
    for (const Linear l : model::linears_in(config_, i))
      if (has_factors(checkpoint_.label(model::name_of(config_, i, l))))
        log_factors[static_cast<size_t>(i)][l].assign(
            static_cast<size_t>(model::out_features(config_, l)), 0.0f);
}

// A layer of the checkpoint, in the student's memory for linears.
class Student::Layer {
 public:
  Layer(Student& student, int64_t layer_idx)
      : config(student.config_),
        rope(student.rope_),
        small(eval::small_weights(config, layer_idx,
                                  [&](const std::string& name) -> const TensorView& {
                                    return student.checkpoint_.files().at(name);
                                  })),
        online(eval::online_transforms(student.checkpoint_, layer_idx)),
        plain(student.linears_) {
    plain.load(layer_idx, student.log_factors[static_cast<size_t>(layer_idx)], small, online);
  }

  void forward(const model::Ragged& batch, const Mat<float>& x, Mat<float>& y,
               model::LayerSaved<float>& saved) {
    plain.keep_outputs(false);
    run(batch, x, y, saved);
  }
  // d_x from d_y, which is overwritten; gradients of the log factors.
  RowValues backward(const model::Ragged& batch, const Mat<float>& x, Mat<float>& d_y,
                     Mat<float>& d_x, model::LayerSaved<float>& saved) {
    plain.keep_outputs(true);
    run(batch, x, d_x, saved);
    model::layer_backward<float>(config, model::norms_of(small), linears, rope, batch, x.view(),
                                 saved, d_y.view(), d_x.view());
    return plain.gradients();
  }

 private:
  void run(const model::Ragged& batch, const Mat<float>& x, Mat<float>& y,
           model::LayerSaved<float>& saved) {
    model::layer_forward<float>(config, model::norms_of(small), linears, rope, batch, x.view(),
                                saved, y.view());
  }

  const hf::Config& config;
  const model::Rope<float>& rope;
  model::LayerWeights small;
  model::OnlineTransforms online;
  ScaleLinears& plain;
  model::OnlineLinears linears{online, plain, &plain};
};

model::LayerSaved<float>& Student::saved(const model::Ragged& batch, bool with_backward) {
  const int64_t n = batch.num_tokens();
  if (!saved_ || saved_->input_normed.rows() < n || (with_backward && !saves_backward_)) {
    saved_.reset();
    saved_ = std::make_unique<model::LayerSaved<float>>(config_, n, with_backward);
    saved_->compute = compute_;
    saves_backward_ = with_backward;
  }
  return *saved_;
}

double Student::run(const std::vector<int64_t>& batch, std::vector<RowValues>* gradients) {
  std::vector<std::vector<int32_t>> sequences;
  for (const int64_t s : batch) sequences.push_back(samples_[static_cast<size_t>(s)]);
  model::HiddenStates states =
      model::embed(checkpoint_.weight(hf::embed_tokens_name(config_)), sequences);
  const int64_t n = states.samples.num_tokens(), layers = config_.num_hidden_layers;
  std::vector<Mat<float>> inputs;  // of each layer, [n, hidden_size]
  Mat<float> x(n, config_.hidden_size), y(n, config_.hidden_size);
  std::copy_n(states.rows.view().data, x.size(), x.data());
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer(*this, i);
    layer.forward(states.samples, x, y, saved(states.samples, gradients != nullptr));
    std::swap(x, y);
    if (gradients != nullptr) inputs.push_back(std::exchange(y, Mat<float>(n, x.cols())));
    checkpoint_.files().drop_pages();
  }
  const double loss = lose(batch, x, gradients != nullptr ? &y : nullptr);
  if (gradients == nullptr) return loss;
  for (int64_t i = layers - 1; i >= 0; --i) {
    Layer layer(*this, i);
    (*gradients)[static_cast<size_t>(i)] = layer.backward(
        states.samples, inputs[static_cast<size_t>(i)], y, x, saved(states.samples, true));
    inputs.pop_back();
    std::swap(x, y);
    checkpoint_.files().drop_pages();
  }
  return loss;
}

// Mean divergence where the last layer gives x; d_x, unless it is null, becomes its gradient.
double Student::lose(const std::vector<int64_t>& batch, const Mat<float>& x, Mat<float>* d_x) {
  const int64_t n = x.rows(), vocab = head_.num_rows();
  Mat<float> targets(n, x.cols()), normed(n, x.cols());
  std::vector<float> inverse(static_cast<size_t>(n));
  int64_t row = 0;
  for (const int64_t s : batch) {
    const MatView<const float> of_sample = std::as_const(targets_).of_sample(s);
    std::copy_n(of_sample.data, of_sample.rows * of_sample.cols, targets.row(row));
    row += of_sample.rows;
  }
  parallel_for_ranges(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      inverse[static_cast<size_t>(i)] = model::kernels::rms_norm(
          x.row(i), final_norm_.data(), static_cast<float>(config_.rms_norm_eps), normed.row(i),
          x.cols());
  });
  std::vector<double> losses(static_cast<size_t>(n));
  for (int64_t begin = 0; begin < n; begin += kLogitTokens) {
    const int64_t end = std::min(begin + kLogitTokens, n);
    const MatView<float> logits = grown(logits_, end - begin, vocab),
                         wanted = grown(wanted_, end - begin, vocab);
    head_.multiply(std::as_const(normed).view().slice_rows(begin, end), logits);
    teacher_head_.multiply(std::as_const(targets).view().slice_rows(begin, end), wanted);
    parallel_for(end - begin, [&](int64_t i) {
      thread_local Buffer<float> room;
      losses[static_cast<size_t>(begin + i)] =
          divergence(wanted.row(i), logits.row(i), 1.0f / static_cast<float>(n),
                     grown(room, 1, vocab).data, vocab);
    });
    if (d_x != nullptr) head_.multiply_back(logits, d_x->view().slice_rows(begin, end));
  }
  if (d_x != nullptr)
    parallel_for_ranges(n, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        model::kernels::rms_norm_backward(d_x->row(i), x.row(i), final_norm_.data(),
                                          inverse[static_cast<size_t>(i)], false, d_x->row(i),
                                          x.cols());
    });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum / static_cast<double>(n);
}

int64_t Student::size_bytes(const hf::Config& config, int64_t num_tokens, int64_t batch_tokens,
                            ComputeType compute) {
  const int64_t state = int64_t{4} * config.hidden_size;  // of a token
  return state * (2 * num_tokens + (config.num_hidden_layers + 8) * batch_tokens) +
         model::LayerSaved<float>::size_bytes(config, batch_tokens, true) +
         ScaleLinears::size_bytes(config, batch_tokens, compute) +
         4 * (2 * std::min(kLogitTokens, batch_tokens) * config.vocab_size +
              kHeadRows * config.hidden_size) +
         int64_t{2} * kHeadRows * (config.hidden_size + kLogitTokens);
}

}  // namespace laos::tune
