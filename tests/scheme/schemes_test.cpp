#include "scheme/schemes.h"

#include <gtest/gtest.h>

#include <set>

namespace laos::scheme {
namespace {

TEST(Schemes, AreTheLabelsOfTheFormatsWithFloatFirst) {
  EXPECT_EQ(list_labels(),
            "FLOAT, W4A4_DYNAMIC, W8A8_DYNAMIC, W8A16, W4A16, W8A8, W8A8_MIX, W4A8_DYNAMIC");
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
  EXPECT_EQ(refused(Engine::kSglang), "W8A16 W8A8_MIX W4A8_DYNAMIC ");
  EXPECT_EQ(refused(Engine::kTransformers), "W8A8_MIX ");
  EXPECT_EQ(refused(Engine::kVllm), "W8A8_MIX ");
  EXPECT_EQ(find("W4A16")->refused_by(Engine::kVllm, 2), "");
  EXPECT_NE(find("W4A4_DYNAMIC")->refused_by(Engine::kVllmAscend, 2), "");
  EXPECT_NE(find("W8A8_DYNAMIC")->refused_by(Engine::kSglang, 2), "");
  for (const EngineRow& row : kEngines) EXPECT_EQ(&row_of(row.engine), &row);
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
