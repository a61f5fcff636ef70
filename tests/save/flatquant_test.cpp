// Linears whose inputs vLLM-Ascend transforms while the model runs (W4A4_FLATQUANT_DYNAMIC).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "hf/ascendv1.h"
#include "hf/layer_spec.h"
#include "save/fixtures.h"
#include "save/inspect.h"
#include "save/pairs.h"

namespace laos::save {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

quant::LinearScheme transformed(const std::string& linear, int64_t tp) {
  quant::LinearScheme scheme = w4a4();
  scheme.act.pair_blocks = linear.ends_with("o_proj") || linear.ends_with("down_proj") ? tp : 1;
  return scheme;
}

hf::Config config_of(int64_t hidden_size, int64_t intermediate_size, int64_t num_heads) {
  hf::Config config = tiny_config(1);
  config.hidden_size = hidden_size;
  config.intermediate_size = intermediate_size;
  config.num_attention_heads = num_heads;
  config.num_key_value_heads = 8;
  config.head_dim = 128;
  return config;
}

struct Shapes {
  const char* name;
  hf::Config config;
  int64_t tp;
  // "left_trans" and "right_trans" of what reads the hidden states, of o_proj and of down_proj.
  std::pair<int64_t, int64_t> hidden, o, down;
};
void PrintTo(const Shapes& shapes, std::ostream* out) { *out << shapes.name; }

class Pairs : public testing::TestWithParam<Shapes> {};
// The sizes are those that the engine's own function gives for the inputs of one rank.
INSTANTIATE_TEST_SUITE_P(
    Qwen3, Pairs,
    testing::Values(
        Shapes{"Size8bOneRank", config_of(4096, 12288, 32), 1, {64, 64}, {64, 64}, {96, 128}},
        Shapes{"Size8bTwoRanks", config_of(4096, 12288, 32), 2, {64, 64}, {32, 64}, {64, 96}},
        Shapes{"Size8bFourRanks", config_of(4096, 12288, 32), 4, {64, 64}, {32, 32}, {48, 64}},
        Shapes{"Size32bOneRank", config_of(5120, 25600, 64), 1, {64, 80}, {64, 128}, {160, 160}},
        Shapes{"Size32bTwoRanks", config_of(5120, 25600, 64), 2, {64, 80}, {64, 64}, {100, 128}},
        Shapes{"Size32bFourRanks", config_of(5120, 25600, 64), 4, {64, 80}, {32, 64}, {80, 80}}),
    [](const auto& p) { return p.param.name; });

TEST_P(Pairs, HaveTheNamesShapesAndDtypesThatTheEngineLoads) {
  const Shapes& shapes = GetParam();
  const auto tensors = output_tensors(shapes.config, DType::kBF16, [&](const std::string& name) {
    return transformed(name, shapes.tp);
  });
  std::map<std::string, std::string> found;
  for (const OutputTensor& tensor : tensors) {
    if (!tensor.linear.empty()) {
      EXPECT_EQ(tensor.label, "W4A4_FLATQUANT_DYNAMIC") << tensor.spec.name;
    }
    found[tensor.spec.name] =
        std::string(to_string(tensor.spec.dtype)) + to_string(tensor.spec.shape);
  }
  const std::string layer = "model.layers.0.";
  for (const char* linear : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    const std::string name = layer + linear + ".";
    const auto [left, right] = name.ends_with("o_proj.")      ? shapes.o
                               : name.ends_with("down_proj.") ? shapes.down
                                                              : shapes.hidden;
    EXPECT_EQ(found[name + "left_trans"], "BF16" + to_string(Shape{left, left})) << name;
    EXPECT_EQ(found[name + "right_trans"], "BF16" + to_string(Shape{right, right})) << name;
    EXPECT_EQ(found[name + "clip_ratio"], "F32[1]") << name;
    EXPECT_TRUE(found[name + "weight"].starts_with("I8[")) << name;
    EXPECT_TRUE(found[name + "weight_scale"].ends_with(", 1]")) << name;
    EXPECT_TRUE(found[name + "weight_offset"].ends_with(", 1]")) << name;
  }
}

// For ranks of several numbers: every one's matrices repeat the same block, and do so nowhere else.
TEST(RepeatedPairs, OfEightAndThirtyTwoBillionParametersServeOneTwoAndFourRanks) {
  for (const auto& [in_features, rows] :
       {std::pair<int64_t, int64_t>{4096, 32}, {12288, 32}, {8192, 64}, {25600, 16}})
    for (const int64_t ranks : {1, 2, 4}) {
      EXPECT_TRUE(can_repeat(in_features, ranks, rows)) << in_features << ", " << ranks;
      Mat<uint16_t> block(rows, rows);
      for (int64_t i = 0; i < block.size(); ++i)
        block.data()[i] = static_cast<uint16_t>(0x3c00 + i % 977);
      const MatrixPair<uint16_t> pair = repeated<uint16_t>(
          block.view(), scheme::pair_sizes(in_features / ranks), one_of(DType::kBF16));
      const auto view_of = [](const Mat<uint16_t>& m) {
        return TensorView{
            .name = "",
            .dtype = DType::kBF16,
            .shape = {m.rows(), m.cols()},
            .data = static_cast<const std::byte*>(static_cast<const void*>(m.data()))};
      };
      EXPECT_EQ(repeated_block(view_of(pair.left), view_of(pair.right)).rows(), rows);
      Mat<uint16_t> other = pair.left.clone();
      other(0, 1) = 1;
      EXPECT_EQ(repeated_block(view_of(other), view_of(pair.right)).rows(), 0);
    }
  EXPECT_FALSE(can_repeat(4096, 3, 32));
  EXPECT_FALSE(can_repeat(4096, 1, 48));
}

TEST(FlatquantPlan, HasNoPlaceInCompressedTensors) {
  const Error error = error_of([&] {
    for (const Format* format : formats())
      if (format->name() != "ascendv1")
        (void)output_tensors(
            config_of(4096, 12288, 32), DType::kBF16,
            [](const std::string& name) { return transformed(name, 1); }, nullptr, *format);
  });
  EXPECT_THAT(error.problems().front().what, HasSubstr("W4A4_FLATQUANT_DYNAMIC"));
}

// 64 inputs everywhere, pairs of 8 by 8, but for down_proj, which two ranks split: 32 inputs each.
constexpr const char* kUp = "model.layers.0.mlp.up_proj";
constexpr const char* kDown = "model.layers.1.mlp.down_proj";

HandMade correct() {
  hf::Config config = tiny_config();
  nlohmann::ordered_json json = tiny_config_json();
  json["hidden_size"] = config.hidden_size = 64;
  json["intermediate_size"] = config.intermediate_size = 64;
  json["head_dim"] = config.head_dim = 16;
  HandMade checkpoint(config, std::move(json), [](const std::string& name) {
    return name.ends_with("o_proj") ? w8a8() : transformed(name, 2);
  });
  return checkpoint;
}

std::string text_of(const InspectReport& report) {
  std::string text;
  for (const Finding& f : report.findings) text += f.what + " @ " + f.where + "\n";
  return text;
}

TEST(InspectPairs, AreLoadedAndSayForHowManyRanksTheyAre) {
  TempDir temp;
  correct().write(temp / "q");
  const InspectReport report = inspect(temp / "q");
  EXPECT_THAT(report.findings, IsEmpty()) << text_of(report);
  EXPECT_EQ(report.tensor_parallel_size, 2);
  const InspectReport sglang = inspect(temp / "q", {.engine = scheme::Engine::kSglang});
  EXPECT_FALSE(sglang.loads());
  EXPECT_THAT(sglang.findings.front().what, HasSubstr("it does not know the label"));
}

struct Damage {
  const char* name;
  std::function<void(HandMade&)> damage;
  const char* what;
  const char* where;
  bool open_refuses;
};
void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

class InspectDamagedPairs : public testing::TestWithParam<Damage> {};
INSTANTIATE_TEST_SUITE_P(
    One, InspectDamagedPairs,
    testing::Values(
        Damage{"OtherMatrixInAFusedMember",
               [](HandMade& h) { h.fill(std::string(kUp) + ".left_trans", 2); },
               "left_trans of linears that engines fuse differ", "mlp.up_proj", false},
        Damage{"OtherClipInAFusedMember",
               [](HandMade& h) { h.fill(std::string(kUp) + ".clip_ratio", 0.5f); },
               "clip_ratio of linears that engines fuse differ", "mlp.up_proj", false},
        Damage{"ClipAboveOne",
               [](HandMade& h) { h.fill(std::string(kDown) + ".clip_ratio", 1.5f); },
               "clip_ratio that is not above 0 and at most 1", "down_proj.clip_ratio", false},
        Damage{"ClipOfZero", [](HandMade& h) { h.fill(std::string(kDown) + ".clip_ratio", 0); },
               "clip_ratio that is not above 0 and at most 1", "down_proj.clip_ratio", false},
        Damage{"ScalarClip",
               [](HandMade& h) { h.reshape(std::string(kDown) + ".clip_ratio", DType::kF32, {}); },
               "shape is [], must be [1]", "down_proj.clip_ratio", true},
        Damage{"MatrixOfF32",
               [](HandMade& h) {
                 h.reshape(std::string(kDown) + ".left_trans", DType::kF32, {4, 4});
               },
               "left_trans of a W4A4_FLATQUANT_DYNAMIC linear is BF16, this one is F32",
               "down_proj.left_trans", true},
        Damage{"MatrixThatIsANumber",
               [](HandMade& h) { h.reshape(std::string(kDown) + ".left_trans", DType::kBF16, {}); },
               "shape is [], must be [8, 8]", "down_proj.left_trans", true},
        Damage{"MatrixWithoutElements",
               [](HandMade& h) {
                 h.reshape(std::string(kDown) + ".right_trans", DType::kBF16, {0, 0});
               },
               "shape is [0, 0], must be [8, 8]", "down_proj.right_trans", true},
        Damage{"MatrixMissing",
               [](HandMade& h) {
                 h.remove(std::string(kDown) + ".left_trans");
                 h.description.erase(std::string(kDown) + ".left_trans");
               },
               "missing; a W4A4_FLATQUANT_DYNAMIC linear needs it", "down_proj.left_trans", true},
        Damage{"PairOfNoSizeThatDivides",
               [](HandMade& h) {
                 h.reshape(std::string(kDown) + ".left_trans", DType::kBF16, {5, 5});
               },
               "shape is [5, 5], must be [8, 8]", "down_proj.left_trans", true}),
    [](const auto& p) { return p.param.name; });

TEST_P(InspectDamagedPairs, IsAnErrorThatNamesIt) {
  const Damage& c = GetParam();
  TempDir temp;
  HandMade checkpoint = correct();
  c.damage(checkpoint);
  checkpoint.write(temp / "q");
  const InspectReport report = inspect(temp / "q");
  EXPECT_FALSE(report.loads());
  bool is_named = false;
  for (const Finding& finding : report.findings)
    is_named = is_named || (finding.what.find(c.what) != std::string::npos &&
                            finding.where.find(c.where) != std::string::npos);
  EXPECT_TRUE(is_named) << text_of(report);
  EXPECT_EQ(open_refuses(temp / "q"), c.open_refuses);
}

TEST(InspectPairs, ForSeveralNumbersOfRanksAreAnError) {
  TempDir temp;
  HandMade checkpoint = correct();
  // The second layer's down_proj for one rank.
  for (const char* part : {".left_trans", ".right_trans"})
    checkpoint.reshape(std::string(kDown) + part, DType::kBF16, {8, 8});
  checkpoint.write(temp / "q");
  const InspectReport report = inspect(temp / "q");
  EXPECT_FALSE(report.loads());
  EXPECT_THAT(text_of(report), HasSubstr("tensor parallel size 1 and for 2"));
}

}  // namespace
}  // namespace laos::save
