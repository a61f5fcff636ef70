#include "scheme/schemes.h"

#include <gtest/gtest.h>

#include <set>

namespace laos::scheme {
namespace {

TEST(Schemes, AreTheLabelsOfTheFormatsWithFloatFirst) {
  EXPECT_EQ(
      list_labels(),
      "FLOAT, W4A4_DYNAMIC, W4A4_FLATQUANT_DYNAMIC, W8A8_DYNAMIC, W8A16, W4A16, W8A8, W8A8_MIX, "
      "W4A8_DYNAMIC");
  EXPECT_EQ(list_labels([](const Scheme& row) { return !row.in_ascendv1(); }), "W4A16");
  EXPECT_EQ(find("W4A4"), nullptr);
  EXPECT_TRUE(find("FLOAT")->is_float());
}

TEST(Schemes, EachHasItsWeightFirstAndASuffixOnce) {
  for (const Scheme& row : schemes()) {
    if (row.is_float() || !row.in_ascendv1()) continue;
    EXPECT_EQ(row.parts.front().suffix, "weight") << row.label;
    std::set<std::string_view> suffixes;
    for (const LinearPart& part : row.parts)
      EXPECT_TRUE(suffixes.insert(part.suffix).second) << row.label << " " << part.suffix;
    EXPECT_EQ(row.packs_rows(), row.label == "W4A8_DYNAMIC");
  }
}

TEST(Schemes, SayWhichEngineDoesNotLoadThemAndWhy) {
  const auto refused = [](Engine engine) {
    std::string list;
    for (const Scheme& row : schemes())
      if (!row.refused_by(engine).empty()) list.append(row.label).append(" ");
    return list;
  };
  EXPECT_EQ(refused(Engine::kVllmAscend), "W4A8_DYNAMIC ");
  EXPECT_EQ(refused(Engine::kSglang), "W4A4_FLATQUANT_DYNAMIC W8A16 W8A8_MIX W4A8_DYNAMIC ");
  EXPECT_EQ(refused(Engine::kTransformers), "W4A4_FLATQUANT_DYNAMIC W8A8_MIX ");
  EXPECT_EQ(refused(Engine::kVllm), "W4A4_FLATQUANT_DYNAMIC W8A8_MIX ");
  EXPECT_EQ(find("W4A16")->refused_by(Engine::kVllm, 2), "");
  EXPECT_NE(find("W4A4_DYNAMIC")->refused_by(Engine::kVllmAscend, 2), "");
  EXPECT_NE(find("W8A8_DYNAMIC")->refused_by(Engine::kSglang, 2), "");
  for (const EngineRow& row : kEngines) EXPECT_EQ(&row_of(row.engine), &row);
}

TEST(Schemes, SayWhichEngineLoadsTheirExperts) {
  const auto loaded = [](Engine engine) {
    std::string list;
    for (const Scheme& row : schemes())
      if (row.refused_by(engine, 1, true).empty()) list.append(row.label).append(" ");
    return list;
  };
  EXPECT_EQ(loaded(Engine::kVllmAscend), "FLOAT W8A8_DYNAMIC W4A8_DYNAMIC ");
  EXPECT_EQ(loaded(Engine::kSglang), "W4A4_DYNAMIC W8A8_DYNAMIC W4A8_DYNAMIC ");
  EXPECT_EQ(loaded(Engine::kVllm), "FLOAT W8A8_DYNAMIC W8A16 W4A16 ");
  EXPECT_EQ(find("W4A16")->refused_by(Engine::kVllm, 2, true), "");
  EXPECT_NE(find("W8A8_DYNAMIC")->refused_by(Engine::kVllm, 2, true), "");
  EXPECT_NE(find("W4A8_DYNAMIC")->refused_by(Engine::kVllmAscend, 2, true), "");
}

// Sizes that vLLM-Ascend's own function gives for the inputs of one rank, run.
TEST(Schemes, PairsAreOfTheSizesThatTheEngineTakesTheInputsApartInto) {
  const auto sizes = [](int64_t in_features) {
    const PairSizes pair = pair_sizes(in_features);
    EXPECT_EQ(pair.refusal, "") << in_features;
    EXPECT_EQ(pair.left * pair.right, in_features);
    return std::pair(pair.left, pair.right);
  };
  using Pair = std::pair<int64_t, int64_t>;
  EXPECT_EQ(sizes(576), Pair(24, 24));
  EXPECT_EQ(sizes(1536), Pair(32, 48));
  EXPECT_EQ(sizes(2560), Pair(40, 64));
  EXPECT_EQ(sizes(3072), Pair(48, 64));
  EXPECT_EQ(sizes(4096), Pair(64, 64));
  EXPECT_EQ(sizes(5120), Pair(64, 80));
  EXPECT_EQ(sizes(6144), Pair(64, 96));
  EXPECT_EQ(sizes(8704), Pair(68, 128));
  EXPECT_EQ(sizes(9728), Pair(76, 128));
  EXPECT_EQ(sizes(12288), Pair(96, 128));
  EXPECT_EQ(sizes(12800), Pair(100, 128));
  EXPECT_EQ(sizes(17408), Pair(128, 136));
  EXPECT_EQ(sizes(25600), Pair(160, 160));
}

TEST(Schemes, PairsThatTheOperatorDoesNotTakeAreRefusedWithTheirSizes) {
  EXPECT_EQ(pair_sizes(288).refusal,
            "288 inputs are no product of two sizes, the second a multiple of 8: 16 by 18");
  EXPECT_EQ(pair_sizes(4864).refusal,
            "4864 inputs are no product of two sizes, the second a multiple of 8: 64 by 76");
  EXPECT_EQ(pair_sizes(int64_t{1} << 18).refusal,
            "262144 inputs are no product of two sizes of at most 256: 512 by 512");
  EXPECT_EQ(pair_sizes(6).refusal, "6 inputs are no product of two sizes");
  EXPECT_EQ(pair_sizes(0).refusal, "0 inputs are no product of two sizes");
  EXPECT_EQ(pair_sizes(-8).refusal, "-8 inputs are no product of two sizes");
}

TEST(Schemes, TheHighestLabelIsTheModelsQuantType) {
  using Labels = std::vector<std::string>;
  EXPECT_EQ(model_quant_type(Labels{"W4A4_DYNAMIC", "FLOAT", "W8A8"}), "W4A4_DYNAMIC");
  EXPECT_EQ(model_quant_type(Labels{"FLOAT", "W8A8_DYNAMIC", "W8A16"}), "W8A8_DYNAMIC");
  EXPECT_EQ(model_quant_type(Labels{"W8A8", "W8A8_MIX", "W8A8_DYNAMIC"}), "W8A8");
  EXPECT_EQ(model_quant_type(Labels{"FLOAT"}), "FLOAT");
  EXPECT_EQ(model_quant_type(Labels{"W4A8_DYNAMIC"}), "Unknown");
  EXPECT_EQ(model_quant_type(Labels{}), "Unknown");
}

}  // namespace
}  // namespace laos::scheme
