#include "model/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "core/collapse.h"
#include "core/error.h"
#include "core/threads.h"
#include "hf/ascendv1.h"
#include "hf/model_tensors.h"
#include "model/as_saved.h"

namespace laos::model {
namespace {

constexpr int64_t kGrain = int64_t{1} << 18;  // elements a task converts

// Elements of a float tensor as they lie in a file. is_finite looks at bits, so that a check costs
// no conversion; to_float is exact for finite values. Both are plain integer and float arithmetic:
// the loops below must vectorise, for they see every weight of a model.
struct Bf16Element {
  using Bits = uint16_t;
  static bool is_finite(Bits bits) noexcept { return (bits & 0x7f80u) != 0x7f80u; }
  static float to_float(Bits bits) noexcept { return bf16_to_float(bits); }
};
struct F16Element {
  using Bits = uint16_t;
  static bool is_finite(Bits bits) noexcept { return (bits & 0x7c00u) != 0x7c00u; }
  // Exponent and mantissa moved to their places in f32, the difference of the exponents' biases
  // multiplied back: right for subnormals too.
  static float to_float(Bits bits) noexcept {
    const float magnitude =
        std::bit_cast<float>(static_cast<uint32_t>(bits & 0x7fffu) << 13) * 0x1p112f;
    const uint32_t not_finite = is_finite(bits) ? 0u : 0x7f800000u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | not_finite |
                                static_cast<uint32_t>(bits & 0x8000u) << 16);
  }
};
struct F32Element {
  using Bits = uint32_t;
  static bool is_finite(Bits bits) noexcept { return (bits & 0x7f800000u) != 0x7f800000u; }
  static float to_float(Bits bits) noexcept { return std::bit_cast<float>(bits); }
};

// memcpy because file data has no alignment; compilers turn it into plain loads.
template <class Element>
typename Element::Bits bits_at(const std::byte* source, int64_t i) noexcept {
  typename Element::Bits bits;
  std::memcpy(&bits, source + i * static_cast<int64_t>(sizeof bits), sizeof bits);
  return bits;
}

template <class Element>
void widen(const std::byte* source, int64_t n, float* target) noexcept {
  for (int64_t i = 0; i < n; ++i) target[i] = Element::to_float(bits_at<Element>(source, i));
}

// Index of the first element that is NaN or infinite, n when there is none.
template <class Element>
int64_t first_not_finite(const std::byte* source, int64_t n) noexcept {
  constexpr int64_t kBlock = 4096;  // no early exit inside a block
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    uint32_t bad = 0;
    for (int64_t i = begin; i < end; ++i)
      bad |= Element::is_finite(bits_at<Element>(source, i)) ? 0u : 1u;
    if (bad == 0) continue;
    for (int64_t i = begin; i < end; ++i)
      if (!Element::is_finite(bits_at<Element>(source, i))) return i;
  }
  return n;
}

// f(Element{}) for the element type of `dtype`, which is F32, BF16 or F16.
template <class F>
auto with_element(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(Bf16Element{});
  if (dtype == DType::kF16) return f(F16Element{});
  LAOS_ASSERT(dtype == DType::kF32);
  return f(F32Element{});
}

enum class Check { kNone, kFinite };

// Elements [begin, end) of `tensor`, checked and, unless `target` is null, widened to f32.
void read_elements(const TensorView& tensor, int64_t begin, int64_t end, Check check,
                   float* target) {
  with_element(tensor.dtype, [&](auto element) {
    using Element = decltype(element);
    parallel_for_ranges(end - begin, kGrain, [&](int64_t from, int64_t to) {
      const std::byte* source =
          tensor.data + (begin + from) * static_cast<int64_t>(sizeof(typename Element::Bits));
      const int64_t n = to - from;
      if (target != nullptr) widen<Element>(source, n, target + from);
      if (check == Check::kNone) return;
      const int64_t bad = first_not_finite<Element>(source, n);
      if (bad == n) return;
      const int64_t index = begin + from + bad;
      const int64_t cols = tensor.shape.back();
      throw Error(ErrorCode::kNumeric,
                  {.what = "a weight is NaN or infinite",
                   .where = tensor.name + ", row " + std::to_string(index / cols) + ", column " +
                            std::to_string(index % cols),
                   .fix = "download the checkpoint again, or use one that was trained to the end"});
    });
  });
}

Mat<float> load_finite(const TensorView& tensor) {
  const bool is_vector = tensor.shape.size() == 1;
  Mat<float> result(is_vector ? 1 : tensor.shape[0], tensor.shape.back());  // [rows, cols]
  read_elements(tensor, 0, result.size(), Check::kFinite, result.data());
  return result;
}

bool is_float(DType dtype) noexcept {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

// A config of another size makes all tensors wrong.
void throw_if_any(const std::vector<Problem>& problems, ErrorCode code) {
  if (problems.empty()) return;
  CollapsedProblems collapsed;
  for (const Problem& problem : problems) collapsed.add(problem);
  throw Error(code, collapsed.list());
}

bool is_rotary_buffer(const std::string& name) noexcept {
  return name.ends_with("rotary_emb.inv_freq");
}

void check_tensors(const std::filesystem::path& directory, const hf::Config& config,
                   const io::TensorFiles& files) {
  std::vector<Problem> format, shape;
  std::set<std::string> expected;
  const auto check = [&](const std::string& name, const Shape& implied, const std::string& fix) {
    expected.insert(name);
    const TensorView* tensor = files.find(name);
    if (tensor == nullptr) {
      format.push_back(
          {.what = "a tensor is missing", .where = directory.string() + ": " + name, .fix = fix});
      return;
    }
    const std::string where = files.file_of(name) + ": " + name;
    if (!is_float(tensor->dtype))
      format.push_back(
          {.what = "the dtype " + std::string(to_string(tensor->dtype)) + " is not a float",
           .where = where,
           .fix = "use the float checkpoint (BF16, F16 or F32)"});
    if (tensor->shape != implied)
      shape.push_back({.what = "the shape is " + to_string(tensor->shape) +
                               ", config.json implies " + to_string(implied),
                       .where = where,
                       .fix = "check that config.json belongs to these weights"});
  };
  for (const hf::WeightModule& module : hf::weight_modules(config)) {
    const bool is_head = module.kind == hf::WeightModule::Kind::kHead;
    if (is_head && config.tie_word_embeddings) {
      expected.insert(module.weight_name());  // may be there, and is not read
      continue;
    }
    check(module.weight_name(), module.shape,
          is_head ? "set tie_word_embeddings to true if the model shares it with embed_tokens"
                  : "check that config.json belongs to these weights");
    if (module.has_bias)
      check(module.bias_name(), {module.shape[0]},
            "check that config.json belongs to these weights");
  }
  for (const auto& [name, tensor] : files.tensors())
    if (!expected.contains(name) && !is_rotary_buffer(name))
      format.push_back(
          {.what = "the tensor is not part of a " + config.architecture + " of this config",
           .where = files.file_of(name) + ": " + name,
           .fix = "check that config.json belongs to these weights"});
  throw_if_any(format, ErrorCode::kFormat);
  throw_if_any(shape, ErrorCode::kShape);
}

}  // namespace

Mat<float>& LayerWeights::operator[](hf::Norm norm) noexcept {
  switch (norm) {
    case hf::Norm::kQNorm:
      return q_norm;
    case hf::Norm::kKNorm:
      return k_norm;
    case hf::Norm::kInputLayernorm:
      return input_layernorm;
    case hf::Norm::kPostAttentionLayernorm:
      break;
  }
  return post_attention_layernorm;
}

Checkpoint Checkpoint::open(const std::filesystem::path& directory,
                            std::span<const hf::Family> families) {
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  checkpoint.config_ = hf::read_config(directory, families);
  if (hf::AscendV1Checkpoint::is_ascendv1(directory))
    throw Error(ErrorCode::kUnsupported, {.what = "the checkpoint is already quantized",
                                          .where = (directory / hf::kDescriptionFile).string(),
                                          .fix = "use the float checkpoint it was made from"});
  // An index may name the head of a tied model, which no shard has.
  checkpoint.files_ =
      io::TensorFiles::open(directory, "model", {hf::lm_head_name(checkpoint.config_) + ".weight"});
  use_own_names(checkpoint.files_, checkpoint.config_);
  split_experts(checkpoint.files_, checkpoint.config_);
  if (checkpoint.config_.tie_word_embeddings &&
      has_own_head(checkpoint.files_, checkpoint.config_)) {
    checkpoint.config_.tie_word_embeddings = false;
    checkpoint.warnings_.push_back(
        "config.json says tie_word_embeddings, and the checkpoint has an lm_head of its own, "
        "which is used");
  }
  check_tensors(directory, checkpoint.config_, checkpoint.files_);
  return checkpoint;
}

LayerWeights Checkpoint::load_layer(int64_t layer_idx) const {
  LAOS_ASSERT(layer_idx >= 0 && layer_idx < config_.num_hidden_layers);
  const auto load = [&](const std::string& tensor) {
    Mat<float> weight = load_finite(files_.at(tensor));
    files_.drop_pages();
    return weight;
  };
  LayerWeights weights;
  for (const Linear linear : linears_in(config_, layer_idx)) {
    const std::string name = name_of(config_, layer_idx, linear);
    weights[linear] = load(name + ".weight");
    if (has_bias(config_, linear)) weights.biases[linear] = load(name + ".bias");
  }
  for (const hf::Norm norm : hf::kAllNorms)
    if (hf::size_of(config_, norm) != 0)
      weights[norm] = load(name_of(config_, layer_idx, norm) + ".weight");
  for (const hf::Router router : hf::kAllRouters)
    if (hf::rows_of(config_, layer_idx, router) != 0)
      weights[router] = load(name_of(config_, layer_idx, router) + ".weight");
  return weights;
}

std::vector<std::span<const std::byte>> Checkpoint::bytes_of_layer(int64_t layer_idx) const {
  std::vector<std::span<const std::byte>> parts;
  const std::string prefix = hf::layer_name(config_, layer_idx) + ".";
  const std::map<std::string, TensorView>& tensors = files_.tensors();
  for (auto at = tensors.lower_bound(prefix); at != tensors.end() && at->first.starts_with(prefix);
       ++at)
    parts.emplace_back(at->second.data, static_cast<size_t>(at->second.size_bytes()));
  return parts;
}

TensorView Checkpoint::embed_tokens() const {
  return files_.at(hf::embed_tokens_name(config_) + ".weight");
}

TensorView Checkpoint::lm_head() const {
  return config_.tie_word_embeddings ? embed_tokens()
                                     : files_.at(hf::lm_head_name(config_) + ".weight");
}

Mat<float> Checkpoint::final_norm() const { return load_finite(final_norm_tensor()); }

const TensorView& Checkpoint::final_norm_tensor() const {
  return files_.at(hf::final_norm_name(config_) + ".weight");
}

void Checkpoint::check_head_finite() const {
  std::vector<TensorView> tensors = {embed_tokens(), final_norm_tensor()};
  if (!config_.tie_word_embeddings) tensors.push_back(lm_head());
  constexpr int64_t kRows = 4096;
  for (const TensorView& tensor : tensors) {
    const int64_t size = num_elements(tensor.shape), piece = kRows * tensor.shape.back();
    for (int64_t begin = 0; begin < size; begin += piece) {
      read_elements(tensor, begin, std::min(size, begin + piece), Check::kFinite, nullptr);
      files_.drop_pages();
    }
  }
}

Mat<float> stack(const LayerWeights& weights, std::span<const Linear> linears) {
  int64_t rows = 0;
  for (const Linear l : linears) rows += weights[l].rows();
  Mat<float> stacked(rows, weights[linears.front()].cols());  // [rows of all, in]
  float* target = stacked.data();
  for (const Linear l : linears) {
    std::copy_n(weights[l].data(), weights[l].size(), target);
    target += weights[l].size();
  }
  return stacked;
}

namespace {

void read_rows(const TensorView& tensor, int64_t begin, int64_t end, Check check, float* target) {
  LAOS_ASSERT(tensor.shape.size() == 2 && begin >= 0 && begin <= end && end <= tensor.shape[0]);
  const int64_t cols = tensor.shape[1];
  read_elements(tensor, begin * cols, end * cols, check, target);
}

}  // namespace

Mat<float> rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end) {
  Mat<float> rows(end - begin, tensor.shape.back());
  rows_to_f32(tensor, begin, end, rows.data());
  return rows;
}

void rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end, float* target) {
  read_rows(tensor, begin, end, Check::kNone, target);
}

void finite_rows_to_f32(const TensorView& tensor, int64_t begin, int64_t end, float* target) {
  read_rows(tensor, begin, end, Check::kFinite, target);
}

bool is_finite(const TensorView& tensor) {
  std::atomic<bool> finite = true;
  with_element(tensor.dtype, [&](auto element) {
    using Element = decltype(element);
    parallel_for_ranges(num_elements(tensor.shape), kGrain, [&](int64_t begin, int64_t end) {
      const std::byte* source =
          tensor.data + begin * static_cast<int64_t>(sizeof(typename Element::Bits));
      if (first_not_finite<Element>(source, end - begin) != end - begin) finite = false;
    });
  });
  return finite;
}

}  // namespace laos::model
