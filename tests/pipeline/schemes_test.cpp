// Every scheme a recipe can ask for, from the float checkpoint to the integers that are evaluated.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "eval/metrics.h"
#include "hf/ascendv1.h"
#include "linalg/gemm.h"
#include "model/online_transform.h"
#include "pipeline/quant_options.h"
#include "pipeline/run.h"
#include "save/convert.h"
#include "save/inspect.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using model::Linear;
using testing::HasSubstr;

constexpr const char* kSchemes = R"(apiversion: modelslim_v1
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
w4_groups: &w4_groups
  weight: {scope: per_group, dtype: int4, symmetric: true, method: minmax, ext: {group_size: 32}}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
w8_groups: &w8_groups
  weight: {scope: per_group, dtype: int8, symmetric: true, method: minmax, ext: {group_size: 16, scale_dtype: float32}}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4a8: &w4a8
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w8a16: &w8a16
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
w8_groups_a16: &w8_groups_a16
  weight: {scope: per_group, dtype: int8, symmetric: true, method: minmax, ext: {group_size: 64}}
static: &static
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  act: {scope: per_tensor, dtype: int8, symmetric: false, method: minmax}
static_mean: &static_mean
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  act: {scope: per_tensor, dtype: int8, symmetric: true, method: minmax, ext: {aggregation_type: mean}}
static_histogram: &static_histogram
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  act: {scope: per_tensor, dtype: int8, symmetric: false, method: histogram}
none: &none
  weight: {scope: per_channel, dtype: float, symmetric: true, method: none}
)";
constexpr const char* kPrior =
    "  prior: [{process: [{type: adapt_rotation, stage: 1, steps: 2}]}]\n";
constexpr const char* kRotate = "    - {type: adapt_rotation, stage: 2}\n";

struct Scheme {
  const char* name;
  bool fits;  // has stage 1
  std::string process;
  std::map<std::string, std::string> labels;  // of linears by the end of their name
  const char* unloadable = "";                // what inspect says; "" = it loads
};

std::string autoround(const std::string& strategies) {
  return "    - {type: autoround_quant, iters: 3, strategies: [" + strategies + "]}\n";
}
std::string linear(const std::string& scheme, const std::string& include) {
  return "    - {type: linear_quant, qconfig: *" + scheme + ", include: [" + include + "]}\n";
}

std::ostream& operator<<(std::ostream& out, const Scheme& scheme) { return out << scheme.name; }

const Scheme kTable[] = {
    {"Laos",
     true,
     kRotate + autoround("{qconfig: *w8, include: ['*attn*', '*down_proj']}, {qconfig: *w4}"),
     {{"o_proj", "W8A8_DYNAMIC"}, {"up_proj", "W4A4_DYNAMIC"}}},
    {"Groups",
     true,
     kRotate + autoround("{qconfig: *w8_groups, include: ['*attn*']}, {qconfig: *w4_groups}"),
     {{"q_proj", "W8A8_DYNAMIC"}, {"down_proj", "W4A4_DYNAMIC"}},
     "per-group scales"},
    {"W4A8AndW8A16",
     false,
     "    - {type: quarot}\n" +
         autoround("{qconfig: *w4a8, include: ['*attn*']}, {qconfig: *w8a16, include: "
                   "['*gate_proj', '*up_proj']}, {qconfig: *w8_groups_a16}"),
     {{"o_proj", "W4A8_DYNAMIC"}, {"gate_proj", "W8A16"}, {"down_proj", "W8A16"}},
     "per-group scales"},
    {"FloatRollback",
     true,
     kRotate + autoround("{qconfig: *none, include: ['model.layers.0.*']}, {qconfig: *w4}"),
     {{"layers.0.mlp.up_proj", "FLOAT"}, {"layers.1.mlp.up_proj", "W4A4_DYNAMIC"}}},
    {"RoundingOff",
     true,
     kRotate + std::string("    - {type: autoround_quant, iters: 3, enable_round_tuning: false, "
                           "strategies: [{qconfig: *w4}]}\n"),
     {{"up_proj", "W4A4_DYNAMIC"}}},
    {"MinmaxOff",
     true,
     kRotate + std::string("    - {type: autoround_quant, iters: 3, enable_minmax_tuning: false, "
                           "strategies: [{qconfig: *w4}]}\n"),
     {{"up_proj", "W4A4_DYNAMIC"}}},
    {"Online",
     false,
     "    - {type: quarot, online: true, max_tp_size: 2, down_proj_online_layers: [1]}\n" +
         autoround("{qconfig: *w8, include: ['*attn*']}, {qconfig: *w4}"),
     {{"down_proj", "W4A4_DYNAMIC"}},
     "online rotation"},
    {"OldLaos",
     false,
     "    - {type: iter_smooth, alpha: 0.9, scale_min: 1.0e-2, enable_subgraph_type: [ov, "
     "up-down]}\n    - {type: quarot, online: true, down_proj_online_layers: [0]}\n" +
         autoround("{qconfig: *none, include: ['model.layers.1.mlp.down_proj']}, {qconfig: "
                   "*w4_groups, include: ['*mlp*', '*o_proj']}, {qconfig: *w8}"),
     {{"layers.1.mlp.down_proj", "FLOAT"}, {"o_proj", "W4A4_DYNAMIC"}, {"q_proj", "W8A8_DYNAMIC"}},
     "online rotation"},
    {"StaticW8A8",
     false,
     "    - {type: iter_smooth}\n    - {type: group, configs: [{type: linear_quant, qconfig: "
     "*static, exclude: ['*down_proj']}, {type: linear_quant, qconfig: *w8, include: "
     "['*down_proj']}]}\n",
     {{"o_proj", "W8A8"}, {"down_proj", "W8A8_DYNAMIC"}}},
    {"StaticOnline",
     false,
     "    - {type: quarot, online: true, down_proj_online_layers: [0, 1]}\n    - {type: "
     "iter_smooth, enable_subgraph_type: [norm-linear]}\n" +
         linear("static_mean", "'*'"),
     {{"o_proj", "W8A8"}, {"down_proj", "W8A8"}},
     "online rotation"},
    {"StaticHistogram", false, linear("static_histogram", "'*'"), {{"down_proj", "W8A8"}}},
    {"TwoQuantizers",
     true,
     kRotate + linear("w8", "'*attn*'") + autoround("{qconfig: *w4}"),
     {{"o_proj", "W8A8_DYNAMIC"}, {"up_proj", "W4A4_DYNAMIC"}}},
    {"Gptq",
     true,
     kRotate +
         std::string("    - {type: gptq_quant, strategies: [{qconfig: *w8, include: ['*attn*', "
                     "'*down_proj']}, {qconfig: *w4}]}\n"),
     {{"o_proj", "W8A8_DYNAMIC"}, {"up_proj", "W4A4_DYNAMIC"}}},
    {"HeadRotation",
     true,
     kRotate + std::string("    - {type: head_rotation, steps: 20}\n    - {type: iter_smooth, "
                           "enable_subgraph_type: [ov]}\n    - {type: gptq_quant, strategies: "
                           "[{qconfig: *w8, include: ['*down_proj']}, {qconfig: *w4}]}\n"),
     {{"o_proj", "W4A4_DYNAMIC"}, {"down_proj", "W8A8_DYNAMIC"}}},
    {"GptqRefit",
     false,
     "    - {type: quarot, online: true, down_proj_online_layers: [0]}\n    - {type: gptq_quant, "
     "refit: true, refine: 1, act_order: false, damp: 0.05, strategies: [{qconfig: *w4_groups}]}\n",
     {{"o_proj", "W4A4_DYNAMIC"}},
     "online rotation"},
    {"GptqLinearStatic",
     false,
     "    - {type: linear_quant, qconfig: {weight: {scope: per_channel, dtype: int8, symmetric: "
     "true, method: gptq, ext: {percdamp: 0.02}}, act: {scope: per_tensor, dtype: int8, symmetric: "
     "false, method: minmax}}}\n",
     {{"o_proj", "W8A8"}}},
    {"FlatquantGptq",
     true,
     kRotate + std::string("    - {type: flatquant}\n    - {type: gptq_quant, strategies: "
                           "[{qconfig: *w8, include: ['*attn*']}, {qconfig: *w4}]}\n"),
     {{"o_proj", "W8A8_DYNAMIC"},
      {"up_proj", "W4A4_FLATQUANT_DYNAMIC"},
      {"down_proj", "W4A4_FLATQUANT_DYNAMIC"}}},
    {"FlatquantTwoRanks",
     false,
     "    - {type: flatquant, method: closed, tp: 2, exclude: ['*gate_proj', '*up_proj']}\n" +
         autoround("{qconfig: *w4}"),
     {{"q_proj", "W4A4_FLATQUANT_DYNAMIC"},
      {"o_proj", "W4A4_FLATQUANT_DYNAMIC"},
      {"up_proj", "W4A4_DYNAMIC"}}},
    {"FlatquantSeveralRanks",
     false,
     "    - {type: flatquant, method: train, tp: [2, 1]}\n    - {type: gptq_quant, strategies: "
     "[{qconfig: *w4}]}\n",
     {{"q_proj", "W4A4_FLATQUANT_DYNAMIC"}, {"down_proj", "W4A4_FLATQUANT_DYNAMIC"}}},
    {"RoundedW4A8",
     false,
     linear("w4a8", "'*'"),
     {{"o_proj", "W4A8_DYNAMIC"}},
     "does not load W4A8_DYNAMIC"},
    {"RoundedW8A16", false, linear("w8a16", "'*'"), {{"o_proj", "W8A16"}}},
};

// The definition of every label in f32: activations quantized and dequantized, weights
// dequantized, one product.
class FakeQuantized : public model::LinearsForward<float> {
 public:
  FakeQuantized(const hf::AscendV1Checkpoint& checkpoint, int64_t layer_idx)
      : checkpoint_(checkpoint), layer_idx_(layer_idx) {}

  void forward(model::LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    const std::span<const Linear> linears = model::linears_of(group);
    for (size_t i = 0; i < linears.size(); ++i) {
      const std::string name = model::name_of(checkpoint_.config(), layer_idx_, linears[i]);
      const std::string& label = checkpoint_.label(name);
      Mat<float> activations(x.rows, x.cols);
      for (int64_t t = 0; t < x.rows; ++t) {
        const std::vector<float> token = transformed(name, x.row(t), x.cols);
        quantize(name, label, token.data(), activations.row(t), x.cols);
      }
      const Mat<float> weight = real_weight(name, label);
      linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(activations).view(),
                   weight.view(), 0.0f, ys[i]);
    }
  }

 private:
  // Every left.rows() * right.rows() values X become leftᵀ X right.
  std::vector<float> transformed(const std::string& name, const float* x, int64_t n) const {
    const std::vector<float> left = checkpoint_.values(name, "left_trans"),
                             right = checkpoint_.values(name, "right_trans");
    std::vector<float> y(x, x + n);
    if (left.empty()) return y;
    const auto l = static_cast<size_t>(std::lround(std::sqrt(left.size()))),
               r = static_cast<size_t>(std::lround(std::sqrt(right.size())));
    for (size_t block = 0; block < y.size(); block += l * r)
      for (size_t a = 0; a < l; ++a)
        for (size_t b = 0; b < r; ++b) {
          double sum = 0;
          for (size_t p = 0; p < l; ++p)
            for (size_t q = 0; q < r; ++q)
              sum += static_cast<double>(left[p * l + a]) * x[block + p * r + q] * right[q * r + b];
          y[block + a * r + b] = static_cast<float>(sum);
        }
    return y;
  }

  void quantize(const std::string& name, const std::string& label, const float* x, float* out,
                int64_t n) const {
    if (label == "FLOAT" || label == "W8A16") {
      std::copy_n(x, n, out);
      return;
    }
    const float q_max = label.starts_with("W4A4") ? 7 : 127;
    float scale = 0, offset = 0;
    if (label == "W8A8") {
      scale = checkpoint_.values(name, "input_scale").front();
      offset = checkpoint_.values(name, "input_offset").front();
    } else {
      for (int64_t j = 0; j < n; ++j) scale = std::max(scale, std::abs(x[j]));
      const std::vector<float> clip = checkpoint_.values(name, "clip_ratio");
      if (!clip.empty()) scale *= clip.front();
      scale = scale > 0 ? scale / q_max : 1;
    }
    for (int64_t j = 0; j < n; ++j)
      out[j] =
          scale * (std::clamp(std::nearbyint(x[j] / scale + offset), -q_max - 1, q_max) - offset);
  }

  Mat<float> real_weight(const std::string& name, const std::string& label) const {
    if (label == "FLOAT") return to_f32(checkpoint_.weight(name));
    const Mat<int8_t> codes = checkpoint_.codes(name);
    std::vector<float> scales = checkpoint_.values(name, "weight_scale");
    if (label == "W8A8") {
      const float input_scale = checkpoint_.values(name, "input_scale").front();
      scales = checkpoint_.values(name, "deq_scale");
      for (float& scale : scales) scale /= input_scale;
    }
    const int64_t groups = static_cast<int64_t>(scales.size()) / codes.rows();
    Mat<float> real(codes.rows(), codes.cols());
    for (int64_t i = 0; i < codes.rows(); ++i)
      for (int64_t j = 0; j < codes.cols(); ++j)
        real(i, j) = static_cast<float>(codes(i, j)) *
                     scales[static_cast<size_t>(i * groups + j * groups / codes.cols())];
    return real;
  }

  const hf::AscendV1Checkpoint& checkpoint_;
  int64_t layer_idx_;
};

class SchemeRuns : public testing::TestWithParam<Scheme> {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny"), .seed = 5}, directory_ / "model");
    std::ofstream calib(directory_ / "calib.jsonl");
    for (const char* text : {"In the beginning was the word", "and the word was with the others",
                             "all of them in order, from the first to the last one."})
      calib << R"({"inputs_pretokenized": ")" << text << "\"}\n";
    std::ofstream(directory_ / "recipe.yaml")
        << kSchemes << "spec:\n"
        << (GetParam().fits ? kPrior : "") << "  process:\n"
        << GetParam().process << "  save: [{type: ascendv1_saver}]\n  dataset: calib.jsonl\n";
  }
  Plan plan() const { return make_plan(quant_options(directory_.path(), "out")); }

  test::TemporaryDirectory directory_;
};
INSTANTIATE_TEST_SUITE_P(Table, SchemeRuns, testing::ValuesIn(kTable),
                         [](const auto& p) { return p.param.name; });

TEST_P(SchemeRuns, AndIsEvaluatedInIntegersAsItsDefinitionSays) {
  const Plan planned = plan();
  for (const auto& [end, label] : GetParam().labels)
    for (const PlannedLinear& linear : planned.linears)
      if (linear.name.ends_with(end)) {
        EXPECT_EQ(linear.label, label) << linear.name;
      }
  Progress progress;
  run(planned, progress);
  const save::InspectReport report = save::inspect(directory_ / "out");
  EXPECT_EQ(report.loads(), std::string(GetParam().unloadable).empty());
  bool is_named = report.loads();
  for (const save::Finding& finding : report.findings) {
    if (finding.severity == save::Severity::kError) {
      EXPECT_TRUE(finding.what.find("does not load") != std::string::npos ||
                  finding.what.find("online rotation, which") != std::string::npos)
          << finding.what;
    }
    is_named = is_named || finding.what.find(GetParam().unloadable) != std::string::npos;
  }
  EXPECT_TRUE(is_named);

  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_ / "out");
  const auto integers = eval::open_eval_model(directory_ / "out");
  const hf::Config& config = integers->config();
  std::vector<std::vector<int32_t>> texts(2);
  for (int32_t i = 0; i < 40; ++i) texts[static_cast<size_t>(i % 2)].push_back(i * 7 % 256);
  model::HiddenStates states = model::embed(integers->embed_tokens(), texts);
  const model::Rope<float> rope(config, 20);
  model::LayerSaved<float> saved(config, 40, false);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const auto layer = integers->load_layer(i);
    const auto square = [&](const std::string& name, const char* suffix) {
      const std::vector<float> values = checkpoint.values(name, suffix);
      const auto n = static_cast<int64_t>(std::lround(std::sqrt(values.size())));
      Mat<float> matrix(n, n);
      std::copy(values.begin(), values.end(), matrix.data());
      return matrix;
    };
    model::OnlineTransforms online;
    const std::string o = model::name_of(config, i, Linear::kOProj),
                      down = model::name_of(config, i, Linear::kDownProj);
    if (!checkpoint.values(o, "heads_rotation").empty())
      online[model::LinearGroup::kO] = std::make_shared<model::KroneckerTransform>(
          model::KroneckerTransform{square(o, "heads_rotation"), {}, config.head_dim});
    if (!checkpoint.values(down, "kronecker_rotation_m").empty()) {
      Mat<float> right = square(down, "kronecker_rotation_n");
      const int64_t cols = right.rows();
      online[model::LinearGroup::kDown] = std::make_shared<model::KroneckerTransform>(
          model::KroneckerTransform{square(down, "kronecker_rotation_m"), std::move(right), cols});
    }
    FakeQuantized plain(checkpoint, i);
    model::OnlineLinears fake(online, plain);
    Mat<float> expected(states.rows.rows(), config.hidden_size), actual(40, config.hidden_size);
    model::layer_forward<float>(config, layer->norms(), fake, rope, states.samples,
                                std::as_const(states.rows).view(), saved, expected.view());
    model::layer_forward<float>(config, layer->norms(), layer->linears(), rope, states.samples,
                                std::as_const(states.rows).view(), saved, actual.view());
    // Both round the same reals and differ by the order of f32 sums, measured 3e-7 of the outputs'
    // size. A code on the very edge may fall either way on another instruction set, which moves a
    // token and, by attention, those that follow a little; a wrong scale or a lost offset moves
    // all.
    std::vector<double> errors;  // by token
    double size = 0;
    for (int64_t t = 0; t < actual.rows(); ++t) {
      double error = 0;
      for (int64_t k = 0; k < actual.cols(); ++k) {
        error += std::pow(static_cast<double>(actual(t, k)) - expected(t, k), 2);
        size += std::pow(static_cast<double>(expected(t, k)) - states.rows(t, k), 2);
      }
      errors.push_back(error);
    }
    std::sort(errors.begin(), errors.end());
    for (double& error : errors)
      error = std::sqrt(error * static_cast<double>(actual.rows()) / size);
    EXPECT_LT(errors[errors.size() / 2], 1e-5) << "layer " << i;
    EXPECT_LT(errors.back(), 0.2) << "layer " << i;
    states.rows = std::move(expected);
  }
}

// The function must survive: the quantized model stays near the float one.
TEST_P(SchemeRuns, AndStaysNearTheFloatModel) {
  Progress progress;
  run(plan(), progress);
  eval::Windows texts(1);
  for (int32_t i = 0; i < 40; ++i) texts[0].ids.push_back(i * 7 % 256);
  const auto comparison = eval::compare(*eval::open_eval_model(directory_ / "out"),
                                        *eval::open_eval_model(directory_ / "model"), texts);
  EXPECT_LT(comparison.divergence.kl.value, 0.01);
}

// ------------------------------------------------------------------ several tensor parallel sizes

class SeveralRanks : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny"), .seed = 5}, directory_ / "model");
    std::ofstream(directory_ / "calib.jsonl")
        << R"({"inputs_pretokenized": "In the beginning was the word and the word was long."})";
  }
  // Quantizes with flatquant's `tp` into `name`.
  void quantize(const std::string& tp, const std::string& name,
                const std::string& exclude = "[]") const {
    std::ofstream(directory_ / "recipe.yaml")
        << kSchemes << "spec:\n  process:\n    - {type: flatquant, tp: " << tp
        << ", exclude: " << exclude
        << "}\n    - {type: gptq_quant, strategies: [{qconfig: *w4}]}\n"
           "  save: [{type: ascendv1_saver}]\n  dataset: calib.jsonl\n";
    Progress progress;
    run(make_plan(quant_options(directory_.path(), name)), progress);
  }
  std::string refusal(const std::string& name, int64_t ranks) const {
    try {
      save::convert_to_ranks(directory_ / name, ranks, directory_ / "refused");
    } catch (const Error& error) {
      return error.problems().front().what;
    }
    return "";
  }

  test::TemporaryDirectory directory_;
};

// 128 inputs of o_proj and down_proj: pairs of 8 by 16 for one rank, 8 by 8 for each of two.
TEST_F(SeveralRanks, AreServedByMatricesThatAloneDiffer) {
  quantize("[1, 2]", "one");
  quantize("[2, 1]", "two");
  save::convert_to_ranks(directory_ / "one", 2, directory_ / "converted");
  save::convert_to_ranks(directory_ / "converted", 1, directory_ / "back");
  const auto open = [&](const char* name) {
    return hf::AscendV1Checkpoint::open(directory_ / name);
  };
  const auto one = open("one"), two = open("two"), converted = open("converted"),
             back = open("back");
  const auto is_equal = [](const TensorView& a, const TensorView& b) {
    return a.dtype == b.dtype && a.shape == b.shape &&
           std::memcmp(a.data, b.data, static_cast<size_t>(a.size_bytes())) == 0;
  };
  int differing = 0;
  for (const auto& [name, tensor] : two.files().tensors()) {
    EXPECT_TRUE(is_equal(tensor, converted.files().at(name))) << name;
    EXPECT_TRUE(is_equal(one.files().at(name), back.files().at(name))) << name;
    if (is_equal(tensor, one.files().at(name))) continue;
    ++differing;
    EXPECT_TRUE(name.ends_with("o_proj.left_trans") || name.ends_with("o_proj.right_trans") ||
                name.ends_with("down_proj.left_trans") || name.ends_with("down_proj.right_trans"))
        << name;
  }
  // Of two layers and two linears; the left ones are the same size.
  EXPECT_EQ(differing, 2 * 2);
  EXPECT_EQ(two.files().tensors().size(), converted.files().tensors().size());
  EXPECT_EQ(two.description().labels.size(), converted.description().labels.size());

  const save::InspectReport report =
      save::inspect(directory_ / "converted", {.verify_files = true});
  EXPECT_TRUE(report.loads());
  EXPECT_EQ(report.tensor_parallel_size, 2);
  EXPECT_EQ(report.other_tensor_parallel_sizes, (std::vector<int64_t>{1, 4}));
  // The function is the same to the last bit: what the matrices multiply by besides is 0 and 1.
  const auto integers = eval::open_eval_model(directory_ / "converted");
  eval::Windows texts(1);
  for (int32_t i = 0; i < 20; ++i) texts[0].ids.push_back(i * 7 % 256);
  EXPECT_EQ(eval::compare(*integers, *eval::open_eval_model(directory_ / "one"), texts)
                .divergence.kl.value,
            0);
}

TEST_F(SeveralRanks, AreRefusedWhereMatricesRepeatNone) {
  quantize("1", "one");
  EXPECT_THAT(refusal("one", 2), HasSubstr("cannot be cut for 2 ranks"));
  EXPECT_TRUE(save::inspect(directory_ / "one").other_tensor_parallel_sizes.empty());
  quantize("[1, 2]", "both");
  EXPECT_THAT(refusal("both", 1), HasSubstr("serves tensor parallel size 1 as it is"));
  EXPECT_THAT(refusal("both", 3), HasSubstr("cannot be cut for 3 ranks"));
  quantize("[1, 2]", "any", "['*.o_proj', '*.down_proj']");
  EXPECT_THAT(refusal("any", 2), HasSubstr("serves every tensor parallel size"));
  EXPECT_THAT(refusal("model", 2), HasSubstr("not a checkpoint in the AscendV1 format"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "refused"));
}

// --------------------------------------------------------------------------------- whole recipes

// A checkpoint of `num_layers` layers with the proportions of Qwen3-32B's linears.
hf::Config proportions_of_32b(int64_t num_layers) {
  hf::Config config = test::qwen3_config("tiny", num_layers);
  config.hidden_size = 160;
  config.intermediate_size = 800;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 1;
  config.head_dim = 32;
  return config;
}

class WholeRecipe : public testing::Test {
 protected:
  QuantOptions options(const std::filesystem::path& recipe) const {
    QuantOptions options;
    options.model_path = directory_ / "model";
    options.save_path = directory_ / "out";
    options.recipe_path = recipe;
    options.model_type = "Qwen3-32B";
    options.dataset = (directory_ / "calib.txt").string();
    options.calib_seq_len = 16;
    return options;
  }
  void write_model(const hf::Config& config) const {
    test::write_synthetic({.config = config, .seed = 6}, directory_ / "model");
    std::ofstream calib(directory_ / "calib.txt");
    for (int i = 0; i < 20; ++i) calib << "In the beginning was the word number " << i << ". ";
  }

  // The bytes of every tensor; nothing of the run is left.
  static std::map<std::string, std::string> bytes_of_run(const Plan& plan) {
    Progress progress;
    run(plan, progress);
    std::map<std::string, std::string> bytes;
    for (const auto& entry : std::filesystem::directory_iterator(plan.options.save_path)) {
      if (entry.path().extension() != ".safetensors") continue;
      const io::TensorFiles files = io::TensorFiles::open_files({entry.path()});
      for (const auto& [name, tensor] : files.tensors())
        bytes[name].assign(reinterpret_cast<const char*>(tensor.data), tensor.size_bytes());
    }
    std::filesystem::remove_all(plan.options.save_path);
    return bytes;
  }

  test::TemporaryDirectory directory_;
};

void expect_the_published_scheme(const Plan& plan) {
  const std::set<int64_t> w8a8_layers = {1,  2,  3,  4,  5,  6,  7,  8,  30, 31,
                                         32, 43, 44, 45, 46, 52, 60, 61, 62, 63};
  double four_bit = 0, all = 0;
  for (const PlannedLinear& linear : plan.linears) {
    const bool is_gate_up = linear.linear == Linear::kGateProj || linear.linear == Linear::kUpProj;
    const bool is_w4a4 = is_gate_up && !w8a8_layers.contains(linear.layer_idx);
    EXPECT_EQ(linear.label, is_w4a4 ? "W4A4_DYNAMIC" : "W8A8_DYNAMIC") << linear.name;
    const hf::Config& config = plan.checkpoint.config();
    const auto size = static_cast<double>(model::out_features(config, linear.linear) *
                                          model::in_features(config, linear.linear));
    all += size;
    if (is_w4a4) four_bit += size;
  }
  EXPECT_NEAR(four_bit / all, 0.37, 0.005);
  EXPECT_THAT(plan.warnings, testing::IsEmpty());
}

TEST_F(WholeRecipe, OursForQwen3_32BPlansThePublishedScheme) {
  write_model(proportions_of_32b(64));
  expect_the_published_scheme(
      make_plan(options(std::filesystem::path(LAOS_SOURCE_DIR) / "recipes/qwen3-32b-w4a4.yaml")));
}

// Of 64 layers 44 have 4-bit linears, and there attention is 8-bit.
TEST_F(WholeRecipe, For32BTakesTwoFifthsOfItsOperationsWhereOnlyFourBitLinearsAreTrained) {
  write_model(proportions_of_32b(64));
  const auto recipe = std::filesystem::path(LAOS_SOURCE_DIR) / "recipes/qwen3-32b-w4a4.yaml";
  std::stringstream text;
  text << std::ifstream(recipe).rdbuf();
  std::string changed = text.str();
  const size_t at = changed.find("      iters: 400\n");
  ASSERT_NE(at, std::string::npos);
  changed.insert(at, "      train: [int4]\n");
  std::ofstream(directory_ / "recipe.yaml") << changed;
  const Plan all = make_plan(options(recipe)),
             some = make_plan(options(directory_ / "recipe.yaml"));
  EXPECT_LT(estimate(some).flops, 0.4 * estimate(all).flops);
  EXPECT_TRUE(some.steps[1]->reads(some, 0));
  EXPECT_FALSE(some.steps[1]->reads(some, 1));
  EXPECT_FALSE(some.reads_activations_from(60));
}

TEST_F(WholeRecipe, RoundsWhatItDoesNotTrainToNearest) {
  write_model(test::qwen3_config("tiny", 2));
  const auto tensors = [&](const std::string& training) {
    std::ofstream(directory_ / "recipe.yaml")
        << kSchemes << "spec:\n  process:\n    - type: autoround_quant\n      iters: 50\n      "
        << training
        << "\n      strategies:\n"
           "        - {qconfig: *w4, include: ['*.up_proj', '*.gate_proj']}\n"
           "        - {qconfig: *w8, include: ['*']}\n"
           "  dataset: calib\n  save: [{type: ascendv1_saver}]\n";
    return bytes_of_run(make_plan(options(directory_ / "recipe.yaml")));
  };
  const auto some = tensors("train: [int4]");
  const auto rounded = tensors("enable_round_tuning: false\n      enable_minmax_tuning: false");
  const std::string prefix = "model.layers.1.";
  EXPECT_TRUE(some.at(prefix + "mlp.down_proj.weight") ==
              rounded.at(prefix + "mlp.down_proj.weight"));
  EXPECT_FALSE(some.at(prefix + "mlp.up_proj.weight") == rounded.at(prefix + "mlp.up_proj.weight"));
}

TEST_F(WholeRecipe, SolvesTheWeightDtypesItIsToldAndPaysForNoOther) {
  write_model(test::qwen3_config("tiny", 2));
  const auto planned = [&](const std::string& processor) {
    std::ofstream(directory_ / "recipe.yaml")
        << kSchemes << "spec:\n  process:\n    - " << processor
        << "\n      strategies:\n"
           "        - {qconfig: *w4, include: ['model.layers.1.mlp.up_proj', "
           "'*.1.mlp.gate_proj']}\n"
           "        - {qconfig: *w8, include: ['*']}\n"
           "  dataset: calib\n  save: [{type: ascendv1_saver}]\n";
    return make_plan(options(directory_ / "recipe.yaml"));
  };
  const Plan all = planned("type: gptq_quant"),
             some = planned("type: gptq_quant\n      solve: [int4]");
  EXPECT_LT(estimate(some).flops, estimate(all).flops);
  EXPECT_TRUE(all.steps[0]->reads(all, 0));
  EXPECT_FALSE(some.steps[0]->reads(some, 0));  // nothing to solve in the first layer
  EXPECT_TRUE(some.steps[0]->reads(some, 1));
  EXPECT_LT(estimate(planned("type: gptq_quant\n      solve: [int4]")).flops,
            estimate(planned("type: gptq_quant\n      solve: [int4]\n      refine: 2")).flops);
  const auto solved = bytes_of_run(some);
  const auto rounded =
      bytes_of_run(planned("type: autoround_quant\n      enable_round_tuning: false\n      "
                           "enable_minmax_tuning: false"));
  EXPECT_TRUE(solved.at("model.layers.1.mlp.down_proj.weight") ==
              rounded.at("model.layers.1.mlp.down_proj.weight"));
  EXPECT_FALSE(solved.at("model.layers.1.mlp.up_proj.weight") ==
               rounded.at("model.layers.1.mlp.up_proj.weight"));
}

// The case of two samples, which a refit learns by heart.
TEST_F(WholeRecipe, ARefitIsLeftOutWhereTokensAreFew) {
  hf::Config config = test::qwen3_config("tiny", 1);
  config.intermediate_size = 256;
  write_model(config);
  const auto planned = [&](const std::string& more) {
    std::ofstream(directory_ / "recipe.yaml")
        << kSchemes << "spec:\n  process:\n    - {type: gptq_quant, " << more
        << "strategies: [{qconfig: *w8, include: ['*']}]}\n  dataset: calib\n"
        << "  save: [{type: ascendv1_saver}]\n";
    QuantOptions few = options(directory_ / "recipe.yaml");
    few.nsamples = 1;
    few.hold_back = 0;
    return make_plan(few);
  };
  const Plan plain = planned("");
  EXPECT_THAT(plain.warnings, testing::Not(testing::Contains(HasSubstr("refit"))));
  const auto without = bytes_of_run(plain);
  for (const char* share : {"true", "auto"}) {
    const Plan refit = planned(std::string("refit: ") + share + ", ");
    EXPECT_THAT(refit.warnings,
                testing::Contains(HasSubstr("inputs, which few tokens make worse, is left out")));
    EXPECT_TRUE(bytes_of_run(refit) == without) << share;
  }
}

TEST_F(WholeRecipe, FewTokensForASolveAreSaidWithHowManyAreEnough) {
  hf::Config config = test::qwen3_config("tiny", 1);
  config.intermediate_size = 256;  // the widest input
  write_model(config);
  std::ofstream(directory_ / "recipe.yaml")
      << kSchemes
      << "spec:\n  process:\n    - {type: gptq_quant, strategies: [{qconfig: *w8, include: "
      << "['*']}]}\n  dataset: calib\n  save: [{type: ascendv1_saver}]\n";
  QuantOptions few = options(directory_ / "recipe.yaml");
  few.nsamples = 1;
  few.hold_back = 0;
  EXPECT_THAT(make_plan(few).warnings,
              testing::Contains(testing::AllOf(
                  HasSubstr("mlp.down_proj"),
                  HasSubstr(std::to_string(4 * config.intermediate_size) + " are enough"))));
}

TEST_F(WholeRecipe, ThePublishedOneForQwen3_32BPlansUnmodified) {
  const std::filesystem::path published =
      std::filesystem::path(LAOS_SOURCE_DIR) / "../shared/data/recipes/qwen3-32b-dense-w4a4.yaml";
  if (!std::filesystem::exists(published)) GTEST_SKIP() << "no published recipe beside the project";
  write_model(proportions_of_32b(64));
  expect_the_published_scheme(make_plan(options(published)));
}

TEST_F(WholeRecipe, ForAnyModelRunsInEveryProfile) {
  write_model(test::qwen3_config("tiny", 6));
  for (const char* type :
       {"w4a4", "w4a4-fast", "w4a4-balanced", "w4a4-full", "w4a4-auto", "w8a8"}) {
    SCOPED_TRACE(type);
    std::stringstream text;
    text << std::ifstream(std::filesystem::path(LAOS_SOURCE_DIR) / "recipes" /
                          (std::string("dense-") + type + ".yaml"))
                .rdbuf();
    std::ofstream(directory_ / "recipe.yaml")
        << std::regex_replace(text.str(), std::regex("iters: [0-9]+"), "iters: 1");
    const Plan plan = make_plan(options(directory_ / "recipe.yaml"));
    if (std::string(type) == "w8a8")  // looks at no data
      EXPECT_THAT(plan.warnings, testing::ElementsAre(HasSubstr("calib.txt is not read")));
    else
      EXPECT_THAT(plan.warnings, testing::IsEmpty());
    for (const PlannedLinear& linear : plan.linears) EXPECT_NE(linear.label, "FLOAT");
    Progress progress;
    run(plan, progress);
    EXPECT_TRUE(save::inspect(directory_ / "out").loads());
    std::filesystem::remove_all(directory_ / "out");
  }
}

// Recipes of this project plan at the depth they are written for, and one of each size runs there,
// each profile once, with one iteration a layer: sizes differ in their numbers of layers alone.
TEST_F(WholeRecipe, OfEverySizeRunsAtItsDepthSlow) {
  const char* const types[] = {"w4a4", "w8a8", "w4a4-fast", "w4a4-balanced", "w4a4-full"};
  size_t runs = 0;
  const std::map<std::string, int64_t> num_layers = {{"0.6b", 28}, {"1.7b", 28}, {"4b", 36},
                                                     {"8b", 36},   {"14b", 40},  {"32b", 64}};
  for (const auto& [size, layers] : num_layers) {
    hf::Config config = test::qwen3_config("tiny", layers);
    config.tie_word_embeddings = size == "0.6b" || size == "1.7b" || size == "4b";
    write_model(config);
    const char* const runs_here = types[runs++ % std::size(types)];
    for (const char* const type : types) {
      SCOPED_TRACE(size + " " + type);
      const std::string name = "recipes/qwen3-" + size + "-" + type + ".yaml";
      std::stringstream text;
      text << std::ifstream(std::filesystem::path(LAOS_SOURCE_DIR) / name).rdbuf();
      std::string recipe = text.str();
      const std::string_view iters = "iters: ";
      for (size_t at = 0; (at = recipe.find(iters, at)) != std::string::npos;) {
        at += iters.size();
        recipe.replace(at, recipe.find_first_not_of("0123456789", at) - at, "1");
      }
      std::ofstream(directory_ / "recipe.yaml") << recipe;
      const Plan plan = make_plan(options(directory_ / "recipe.yaml"));
      // Of this little data a solve warns.
      EXPECT_THAT(plan.warnings, testing::Each(testing::AnyOf(HasSubstr("are enough"),
                                                              HasSubstr("calib.txt is not read"))));
      for (const PlannedLinear& linear : plan.linears) EXPECT_NE(linear.label, "FLOAT");
      if (type != runs_here) continue;
      Progress progress;
      run(plan, progress);
      EXPECT_TRUE(save::inspect(directory_ / "out").loads());
      std::filesystem::remove_all(directory_ / "out");
    }
  }
}

TEST_F(WholeRecipe, IsRefusedWhereItsCalibrationTextCannotFitTheRotation) {
  write_model(test::qwen3_config("tiny"));
  std::ofstream(directory_ / "calib.txt") << "too short";  // 9 tokens in 2 layers, 64 dimensions
  try {
    make_plan(options(std::filesystem::path(LAOS_SOURCE_DIR) / "recipes/qwen3-tiny-w4a4.yaml"));
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("it needs 32 samples"));
    EXPECT_THAT(error.what(), HasSubstr("spec.prior[0].process[0]"));
  }
}

TEST_F(WholeRecipe, IsRefusedWhereDimensionsHaveNoOnlineRotation) {
  hf::Config config = test::qwen3_config("tiny");
  config.intermediate_size = 138;  // no two factors
  write_model(config);
  std::ofstream(directory_ / "recipe.yaml")
      << kSchemes
      << "spec:\n  process:\n    - {type: quarot, online: true, max_tp_size: 8, block_size: 64, "
         "down_proj_online_layers: [2]}\n"
      << linear("w8", "'*'") << "  save: [{type: ascendv1_saver}]\n";
  try {
    make_plan(options(directory_ / "recipe.yaml"));
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("block_size 64 does not divide head_dim 32"));
    EXPECT_THAT(error.what(), HasSubstr("max_tp_size 8 does not divide num_attention_heads 4"));
    EXPECT_THAT(error.what(), HasSubstr("intermediate_size 138 has no two Hadamard factors"));
    EXPECT_THAT(error.what(), HasSubstr("names layer 2; the model has 2"));
  }
}

}  // namespace
}  // namespace laos::pipeline
