#include "eval/eval_model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <utility>

#include "core/threads.h"
#include "eval/layer_parts.h"
#include "hf/model_tensors.h"
#include "hf/quantization_config.h"
#include "hf/quantized_checkpoint.h"
#include "linalg/gemm.h"
#include "linalg/row_products.h"
#include "model/cached_layer.h"
#include "model/checkpoint.h"
#include "model/kernels/elementwise.h"
#include "model/online_transform.h"
#include "quant/int_weight.h"
#include "scheme/schemes.h"

namespace laos::eval {

using model::Linear;
using model::LinearGroup;

namespace {

int64_t bytes_of(const io::TensorFiles& files) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : files.tensors()) bytes += tensor.size_bytes();
  return bytes;
}

class FloatLayer : public EvalLayer {
 public:
  explicit FloatLayer(model::LayerWeights weights)
      : weights_(std::move(weights)), linears_(model::views_of(weights_)) {}
  model::LayerNorms<float> norms() const override { return model::norms_of(weights_); }
  model::LinearsForward<float>& linears() override { return linears_; }

 private:
  model::LayerWeights weights_;
  model::FloatLinears<float> linears_;
};

// Weights where the checkpoint's files hold them.
class MappedFloatLayer : public EvalLayer, private model::LinearsForward<float> {
 public:
  MappedFloatLayer(const hf::Config& config, const io::TensorFiles& files, int64_t layer_idx) {
    const auto find = [&](const std::string& name) -> const TensorView& {
      const TensorView* tensor = files.find(name);
      LAOS_ASSERT(tensor != nullptr);
      return *tensor;
    };
    for (const Linear l : model::linears_in(config, layer_idx))
      weights_[l] = find(model::name_of(config, layer_idx, l) + ".weight");
    small_ = small_weights(config, layer_idx, find);
  }
  model::LayerNorms<float> norms() const override { return model::norms_of(small_); }
  model::LinearsForward<float>& linears() override { return *this; }

 protected:
  const TensorView& weight(Linear l) const { return weights_[l]; }

 private:
  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    const std::span<const Linear> linears = model::linears_of(group);
    for (size_t i = 0; i < linears.size(); ++i) {
      multiply(linears[i], x, ys[i]);
      model::add_bias<float>(small_.biases[linears[i]].data(), ys[i]);
    }
  }
  virtual void multiply(Linear l, MatView<const float> x, MatView<float> y) = 0;

  model::PerLinear<TensorView> weights_;
  model::LayerWeights small_;
};

// Each row of a product stands alone.
class ResidentFloatLayer : public MappedFloatLayer {
 public:
  ResidentFloatLayer(const hf::Config& config, const io::TensorFiles& files, int64_t layer_idx)
      : MappedFloatLayer(config, files, layer_idx) {
    for (const Linear l : model::linears_in(config, layer_idx))
      rows_[l] = linalg::RowWeight(weight(l));
  }

 private:
  void multiply(Linear l, MatView<const float> x, MatView<float> y) override {
    rows_[l].multiply(x, y);
  }

  model::PerLinear<linalg::RowWeight> rows_;
};

// Rows of a weight are widened, multiplied with and forgotten. New memory for a whole layer in f32
// costs more than the products of a few hundred tokens do.
class StreamedFloatLayer : public MappedFloatLayer {
 public:
  StreamedFloatLayer(const hf::Config& config, const io::TensorFiles& files, int64_t layer_idx,
                     Buffer<float>& scratch)
      : MappedFloatLayer(config, files, layer_idx), scratch_(scratch) {}

 private:
  void multiply(Linear l, MatView<const float> x, MatView<float> y) override {
    constexpr int64_t kValues = int64_t{2} << 20;
    const TensorView& all = weight(l);
    const int64_t rows = all.shape[0], cols = all.shape[1];
    const int64_t most = std::min(rows, std::max<int64_t>(64, kValues / cols / 64 * 64));
    for (int64_t begin = 0; begin < rows; begin += most) {
      const int64_t end = std::min(rows, begin + most);
      const MatView<float> block = grown(scratch_, most, cols).slice_rows(0, end - begin);
      model::finite_rows_to_f32(all, begin, end, block.data);
      linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, x, block, 0.0f,
                   y.slice_cols(begin, end));
    }
  }

  Buffer<float>& scratch_;
};

// A layer whose linears' outputs are rounded.
class RoundedLayer : public EvalLayer {
 public:
  RoundedLayer(std::unique_ptr<EvalLayer> layer, DType dtype)
      : layer_(std::move(layer)), linears_(layer_->linears(), dtype) {}
  model::LayerNorms<float> norms() const override { return layer_->norms(); }
  model::LinearsForward<float>& linears() override { return linears_; }

 private:
  std::unique_ptr<EvalLayer> layer_;
  RoundedLinears linears_;
};

std::unique_ptr<Emulation> emulation_of(const hf::Config& config, Arithmetic arithmetic) {
  if (arithmetic != Arithmetic::kVllmAscend) return nullptr;
  return std::make_unique<Emulation>(Emulation{.dtype = config.dtype});
}

class FloatModel : public EvalModel {
 public:
  FloatModel(model::Checkpoint checkpoint, Arithmetic arithmetic)
      : checkpoint_(std::move(checkpoint)),
        emulation_(emulation_of(checkpoint_.config(), arithmetic)) {}
  const hf::Config& config() const override { return checkpoint_.config(); }
  std::unique_ptr<EvalLayer> load_layer(int64_t layer_idx) const override {
    return rounded(std::make_unique<FloatLayer>(checkpoint_.load_layer(layer_idx)));
  }
  std::unique_ptr<EvalLayer> load_resident_layer(int64_t layer_idx) const override {
    return rounded(
        std::make_unique<ResidentFloatLayer>(checkpoint_.config(), checkpoint_.files(), layer_idx));
  }
  std::unique_ptr<EvalLayer> load_streamed_layer(int64_t layer_idx) const override {
    return rounded(std::make_unique<StreamedFloatLayer>(checkpoint_.config(), checkpoint_.files(),
                                                        layer_idx, scratch_));
  }
  TensorView embed_tokens() const override { return checkpoint_.embed_tokens(); }
  TensorView lm_head() const override { return checkpoint_.lm_head(); }
  Mat<float> final_norm() const override { return checkpoint_.final_norm(); }
  int64_t weight_bytes() const override { return bytes_of(checkpoint_.files()); }
  void drop_pages() const noexcept override { checkpoint_.drop_pages(); }
  const Emulation* emulation() const override { return emulation_.get(); }

 private:
  std::unique_ptr<EvalLayer> rounded(std::unique_ptr<EvalLayer> layer) const {
    if (!emulation_) return layer;
    return std::make_unique<RoundedLayer>(std::move(layer), emulation_->dtype);
  }

  model::Checkpoint checkpoint_;
  std::unique_ptr<Emulation> emulation_;
  mutable Buffer<float> scratch_;  // of streamed layers
};

// Whether linears of the scheme are computed here; kEither leaves open how.
bool has_path(const scheme::Scheme& scheme) {
  return scheme.activations != scheme::Activations::kEither;
}

// Linears of one layer, each float or integer. A group's input is quantized once for each width its
// linears use.
class MixedLinears : public model::LinearsForward<float> {
 public:
  struct Entry {
    Mat<int8_t> codes;  // unpacked, where the checkpoint holds them packed
    int act_bits = 0;   // of `dynamic`
    float clip = 1;     // likewise, see model::KroneckerTransform
    bool leaves_in_f16 = false;
    std::string name;  // the module's
    std::optional<quant::IntLinear> dynamic;
    std::optional<quant::StaticLinear> fixed;
    bool holds_bias = false;                // `fixed` adds the bias itself
    std::optional<linalg::RowWeight> rows;  // in place of `real`, where each row is to be its own
    Mat<float> real;
  };
  model::PerLinear<Entry> entries;
  model::LayerWeights small;       // norms, routers and biases
  Emulation* emulation = nullptr;  // null: outputs stay as they are
  quant::TokenPeak token_peak = quant::TokenPeak::kLargestCode;

  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    const std::span<const Linear> linears = model::linears_of(group);
    quant::QuantizedTokens tokens;
    int tokens_bits = 0;
    for (size_t i = 0; i < linears.size(); ++i) {
      Entry& entry = entries[linears[i]];
      if (entry.fixed) {
        entry.fixed->forward(x, ys[i]);
      } else if (entry.dynamic) {
        if (entry.act_bits != tokens_bits) {
          tokens = quant::quantize_tokens(x, {.bits = entry.act_bits}, entry.clip, token_peak);
          tokens_bits = entry.act_bits;
        }
        entry.dynamic->forward(tokens, ys[i]);
      } else if (entry.rows) {
        entry.rows->multiply(x, ys[i]);
      } else {
        linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, x,
                     std::as_const(entry.real).view(), 0.0f, ys[i]);
      }
      if (emulation != nullptr && entry.leaves_in_f16) leave_in_f16(entry.name, ys[i]);
      if (!entry.holds_bias) model::add_bias<float>(small.biases[linears[i]].data(), ys[i]);
      if (emulation != nullptr) round_rows(ys[i], emulation->dtype);
    }
  }

 private:
  // The engine's W4A4_DYNAMIC products leave in float16; a bias comes after.
  void leave_in_f16(const std::string& name, MatView<float> y) {
    float& peak = emulation->w4a4_peaks[name];
    for (int64_t i = 0; i < y.rows; ++i)
      for (int64_t j = 0; j < y.cols; ++j) peak = std::max(peak, std::fabs(y.row(i)[j]));
    round_rows(y, DType::kF16);
  }
};

class QuantizedLayer : public EvalLayer {
 public:
  QuantizedLayer(const hf::QuantizedCheckpoint& checkpoint, int64_t layer_idx, bool resident,
                 Arithmetic arithmetic, Emulation* emulation) {
    mixed_.emulation = emulation;
    if (arithmetic == Arithmetic::kTransformers) mixed_.token_peak = quant::TokenPeak::kHalfBeyond;
    const hf::Config& config = checkpoint.config();
    online_ = online_transforms(checkpoint, layer_idx, dtype_of(emulation),
                                emulation == nullptr ? DType::kF32 : DType::kF16);
    for (const Linear l : model::linears_in(config, layer_idx)) {
      const std::string name = model::name_of(config, layer_idx, l);
      load(checkpoint, name, resident, mixed_.entries[l]);
      mixed_.entries[l].clip = online_.clip_of(hf::group_of(l));
    }
    cache_scales_ = checkpoint.cache_scales(layer_idx);
    if (cache_scales_ && emulation != nullptr)  // engines hold them in the model's dtype
      for (std::vector<float>* scales : {&cache_scales_->keys, &cache_scales_->values})
        for (float& scale : *scales) scale = round_to(emulation->dtype, scale);
    mixed_.small = small_weights(
        config, layer_idx,
        [&](const std::string& name) -> const TensorView& { return checkpoint.files().at(name); });
  }
  model::LayerNorms<float> norms() const override {
    model::LayerNorms<float> norms = model::norms_of(mixed_.small);
    if (cache_scales_) {
      norms.key_scale = cache_scales_->keys.data();
      norms.value_scale = cache_scales_->values.data();
    }
    return norms;
  }
  model::LinearsForward<float>& linears() override { return linears_; }

 private:
  void load(const hf::QuantizedCheckpoint& checkpoint, const std::string& name, bool resident,
            MixedLinears::Entry& entry) const {
    entry.name = name;
    const scheme::Scheme& scheme = *scheme::find(checkpoint.label(name));
    if (scheme.activations == scheme::Activations::kStatic) {
      hf::StaticInput input = checkpoint.static_input(name);
      entry.holds_bias = input.holds_bias;
      entry.fixed.emplace(codes_of(checkpoint, name, entry.codes),
                          quant::StaticRange{.scale = input.scale, .offset = input.offset},
                          std::move(input.deq_scale), std::move(input.quant_bias));
    } else if (scheme.activations == scheme::Activations::kDynamic) {
      entry.act_bits = scheme.act_bits;
      entry.leaves_in_f16 = scheme.act_bits == 4 && !scheme.transforms;
      entry.dynamic.emplace(codes_of(checkpoint, name, entry.codes),
                            weight_scale(checkpoint, name));
    } else if (scheme.is_float() && resident) {
      entry.rows.emplace(checkpoint.weight(name));
    } else {
      entry.real = scheme.is_float() ? to_f32(checkpoint.weight(name))
                                     : quant::dequantize({.spec = {},
                                                          .q = checkpoint.codes(name),
                                                          .scale = weight_scale(checkpoint, name)});
      if (resident) entry.rows.emplace(std::move(entry.real));
    }
  }

  // The codes [out, in] where they lie, or unpacked into `unpacked`.
  static MatView<const int8_t> codes_of(const hf::QuantizedCheckpoint& checkpoint,
                                        const std::string& name, Mat<int8_t>& unpacked) {
    const MatView<const int8_t> stored = checkpoint.stored_codes(name);
    if (stored.data != nullptr) return stored;
    unpacked = checkpoint.codes(name);
    return std::as_const(unpacked).view();
  }

  // As the engine holds them.
  std::vector<float> weight_scale(const hf::QuantizedCheckpoint& checkpoint,
                                  const std::string& name) const {
    std::vector<float> scale = checkpoint.weight_scale(name);
    if (mixed_.emulation != nullptr && scheme::find(checkpoint.label(name))->scales_in_model_dtype)
      for (float& value : scale) value = round_to(mixed_.emulation->dtype, value);
    return scale;
  }

  MixedLinears mixed_;
  std::optional<hf::CacheScales> cache_scales_;
  model::OnlineTransforms online_;
  model::OnlineLinears linears_{online_, mixed_};
};

class QuantizedModel : public EvalModel {
 public:
  QuantizedModel(std::unique_ptr<hf::QuantizedCheckpoint> checkpoint, Arithmetic arithmetic)
      : files_(std::move(checkpoint)),
        checkpoint_(*files_),
        arithmetic_(arithmetic),
        emulation_(emulation_of(checkpoint_.config(), arithmetic)) {
    Problems problems;
    for (int64_t i = 0; i < checkpoint_.config().num_hidden_layers; ++i) {
      for (const Linear l : model::linears_in(config(), i)) {
        const std::string& label = checkpoint_.label(model::name_of(config(), i, l));
        const scheme::Scheme* scheme = scheme::find(label);
        if (scheme == nullptr || !has_path(*scheme) ||
            (hf::expert_of(l) >= 0 && scheme->transforms))
          problems.add({.what = "label " + label + " has no integer evaluation",
                        .where = model::name_of(config(), i, l),
                        .fix = "evaluate checkpoints of " + scheme::list_labels(has_path)});
      }
      for (const LinearGroup group : model::groups_in(config(), i))
        require_one_pair(i, group, problems);
    }
    problems.throw_if_any(ErrorCode::kUnsupported);
  }
  const hf::Config& config() const override { return checkpoint_.config(); }
  std::string label(const std::string& linear) const override { return checkpoint_.label(linear); }
  std::unique_ptr<EvalLayer> load_layer(int64_t layer_idx) const override {
    return std::make_unique<QuantizedLayer>(checkpoint_, layer_idx, false, arithmetic_,
                                            emulation_.get());
  }
  std::unique_ptr<EvalLayer> load_resident_layer(int64_t layer_idx) const override {
    return std::make_unique<QuantizedLayer>(checkpoint_, layer_idx, true, arithmetic_,
                                            emulation_.get());
  }
  TensorView embed_tokens() const override {
    return checkpoint_.weight(hf::embed_tokens_name(config()));
  }
  TensorView lm_head() const override { return checkpoint_.weight(hf::lm_head_name(config())); }
  Mat<float> final_norm() const override {
    return to_f32(checkpoint_.weight(hf::final_norm_name(config())));
  }
  int64_t weight_bytes() const override { return bytes_of(checkpoint_.files()); }
  void drop_pages() const noexcept override { checkpoint_.files().drop_pages(); }
  const Emulation* emulation() const override { return emulation_.get(); }

 private:
  // What linears of a group read is transformed once.
  void require_one_pair(int64_t layer_idx, LinearGroup group, Problems& problems) const {
    const auto transforms = [&](Linear l) {
      const scheme::Scheme* row =
          scheme::find(checkpoint_.label(model::name_of(config(), layer_idx, l)));
      return row != nullptr && row->transforms;
    };
    const std::span<const Linear> linears = model::linears_of(group);
    for (const Linear l : linears)
      if (transforms(l) != transforms(linears.front()))
        problems.add({.what = "only some of the linears that read the same are transformed",
                      .where = model::name_of(config(), layer_idx, l),
                      .fix = "quantize them with one scheme"});
  }

  std::unique_ptr<hf::QuantizedCheckpoint> files_;
  const hf::QuantizedCheckpoint& checkpoint_;
  Arithmetic arithmetic_;
  std::unique_ptr<Emulation> emulation_;
};

}  // namespace

std::unique_ptr<EvalModel> open_eval_model(const std::filesystem::path& directory,
                                           Arithmetic arithmetic) {
  if (auto quantized = hf::open_quantized(directory))
    return std::make_unique<QuantizedModel>(std::move(quantized), arithmetic);
  if (const std::string method = hf::quant_method_of(directory); !method.empty())
    throw Error(ErrorCode::kUnsupported,
                {.what = "checkpoints quantized by `" + method + "` are not read",
                 .where = (directory / "config.json").string() + ", " + hf::kQuantizationConfig +
                          ".quant_method",
                 .fix = "laos reads AscendV1, compressed-tensors and gptq"});
  return std::make_unique<FloatModel>(model::Checkpoint::open(directory), arithmetic);
}

void normalize_final(const EvalModel& model, model::HiddenStates& states) {
  const Mat<float> gain = model.final_norm();
  const auto epsilon = static_cast<float>(model.config().rms_norm_eps);
  parallel_for_ranges(states.rows.rows(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      model::kernels::rms_norm(states.rows.row(i), gain.data(), epsilon, states.rows.row(i),
                               states.rows.cols());
  });
  round_rows(states.rows.view(), dtype_of(model.emulation()));
}

namespace {

// So many pass through a layer in less time than its memory takes to get.
constexpr int64_t kFewTokens = 512;

// All layers with activations rounded between operations, which the layer with a cache does; here
// the cache holds one layer and each sequence is run at once.
void emulated_layers(const EvalModel& model, const model::Rope<float>& rope,
                     model::HiddenStates& states, const LayersDone& progress) {
  hf::Config config = model.config();
  model::LayerSaved<float> saved(
      config, std::max(kEvalTokens, model::longest_sample(states.samples)), false);
  const int64_t num_layers = std::exchange(config.num_hidden_layers, 1);
  for (int64_t i = 0; i < num_layers; ++i) {
    const std::unique_ptr<EvalLayer> layer = model.load_layer(i);
    // Whole sequences, kEvalTokens at a time; a longer one stands alone.
    for (int64_t first = 0; first < states.samples.num_sequences();) {
      model::Ragged batch;
      std::vector<int64_t> lengths, sequences;
      const int64_t begin = states.samples.offsets[static_cast<size_t>(first)];
      do {
        lengths.push_back(states.samples.length(first++));
        batch.append(lengths.back());
        sequences.push_back(std::ssize(sequences));
      } while (first < states.samples.num_sequences() &&
               batch.num_tokens() + states.samples.length(first) <= kEvalTokens);
      const MatView<float> x = states.rows.view().slice_rows(begin, begin + batch.num_tokens());
      Mat<float> y(x.rows, x.cols);
      model::KvCache cache(config, lengths);
      model::cached_layer_forward(config, 0, layer->norms(), layer->linears(), rope, batch,
                                  sequences, x, cache, saved, y.view(), model.emulation()->dtype);
      std::copy_n(y.data(), y.size(), x.data);
    }
    model.drop_pages();
    if (progress) progress(i + 1);
  }
}

}  // namespace

model::HiddenStates final_hidden(const EvalModel& model,
                                 const std::vector<std::vector<int32_t>>& sequences,
                                 const LayersDone& progress) {
  const hf::Config& config = model.config();
  model::HiddenStates states = model::embed(model.embed_tokens(), sequences);
  const model::Rope<float> rope(config, model::longest_sample(states.samples));
  if (model.emulation() != nullptr) {
    emulated_layers(model, rope, states, progress);
    normalize_final(model, states);
    return states;
  }
  model::LayerSaved<float> saved(config, model::largest_piece(states.samples, kEvalTokens), false,
                                 model::longest_sample(states.samples));
  const bool are_few = states.samples.num_tokens() <= kFewTokens;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::unique_ptr<EvalLayer> layer =
        are_few ? model.load_streamed_layer(i) : model.load_layer(i);
    model::forward_all(config, layer->norms(), layer->linears(), rope, states, kEvalTokens, saved,
                       &states);
    model.drop_pages();
    if (progress) progress(i + 1);
  }
  normalize_final(model, states);
  return states;
}

}  // namespace laos::eval
