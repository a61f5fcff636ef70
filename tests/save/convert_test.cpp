#include "save/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "hf/ascendv1.h"
#include "hf/model_tensors.h"
#include "hf/quantized_checkpoint.h"
#include "save/checkpoint_writer.h"
#include "save/fixtures.h"
#include "save/inspect.h"

namespace laos::save {
namespace {

using testing::HasSubstr;

// Each kind that both formats hold; v_proj and gate_proj of layer 1 stay float.
std::optional<quant::LinearScheme> schemes_of_both(const std::string& linear) {
  const quant::ActSpec shifted = {.bits = 8, .is_static = true, .symmetric = false};
  if (linear.ends_with("q_proj")) return quant::LinearScheme{{.bits = 8}, shifted};
  if (linear.ends_with("k_proj"))
    return quant::LinearScheme{{.bits = 8}, {.bits = 8, .is_static = true}};
  if (linear.ends_with("o_proj")) return quant::LinearScheme{{.bits = 4}, {.bits = 8}};
  if (linear.ends_with("down_proj"))
    return quant::LinearScheme{{.bits = 8, .group_size = 8}, {.bits = 16}};
  if (linear.ends_with("up_proj")) return w4a4();
  return std::nullopt;
}

class Convert : public testing::Test {
 protected:
  void SetUp() override { write_model_directory(temp_ / "model"); }

  void write(const Format& format, const SchemeLookup& schemes) {
    CheckpointWriter writer(
        {.save_path = temp_ / "first",
         .model_directory = temp_ / "model",
         .float_dtype = DType::kBF16,
         .tensors = output_tensors(tiny_config(), DType::kBF16, schemes, nullptr, format),
         .max_shard_bytes = max_shard_bytes({}),
         .model_type = "Tiny",
         .recipe_yaml = "apiversion: modelslim_v1\n",
         .global_rotation = 16,
         .format = &format});
    const quant::StaticRange range = {.scale = 0.3125f, .offset = -3}, centred = {.scale = 0.25f};
    for (const hf::WeightModule& module : hf::weight_modules(tiny_config())) {
      const bool is_linear = module.kind == hf::WeightModule::Kind::kLinear;
      const auto scheme = is_linear ? schemes(module.name) : std::nullopt;
      if (!scheme) {
        Mat<float> values(module.shape.size() == 2 ? module.shape[0] : 1, module.shape.back());
        for (int64_t i = 0; i < values.size(); ++i) values.data()[i] = static_cast<float>(i) / 8;
        writer.write_float(module.weight_name(), values.view());
        continue;
      }
      quant::IntWeight weight{
          .spec = scheme->weight, .q = Mat<int8_t>(module.shape[0], module.shape[1]), .scale = {}};
      for (int64_t i = 0; i < weight.q.size(); ++i)
        weight.q.data()[i] = static_cast<int8_t>(i % 13 - 6);
      const int64_t groups =
          scheme->weight.group_size == 0 ? 1 : module.shape[1] / scheme->weight.group_size;
      for (int64_t i = 0; i < module.shape[0] * groups; ++i)
        weight.scale.push_back(round_to(DType::kBF16, 0.01f * static_cast<float>(i + 1)));
      const quant::StaticRange* input = nullptr;
      if (scheme->act.is_static) input = scheme->act.symmetric ? &centred : &range;
      writer.write_linear(module.name, weight, input);
    }
    Mat<float> rotation(16, 16);
    for (int64_t i = 0; i < rotation.size(); ++i) rotation.data()[i] = static_cast<float>(i);
    writer.write_global_rotation(rotation.view());
    writer.commit();
  }
  // Of config.json without the white space of the model's.
  static std::string content(const fs::path& file) {
    const std::string text = read_text(file);
    return file.filename() == kConfigFile ? nlohmann::ordered_json::parse(text).dump() : text;
  }
  TempDir temp_;
};

TEST_F(Convert, ThereAndBackAreTheSameBytes) {
  const auto name = [](const Format& format, const std::string& ending) {
    return std::string(format.weights_stem()) + ending;
  };
  const std::string shard = "-00001-of-00001.safetensors";
  for (const Format* format : {&ascendv1_format(), &compressed_tensors_format()}) {
    const Format& other =
        format == &ascendv1_format() ? compressed_tensors_format() : ascendv1_format();
    write(*format, schemes_of_both);
    convert(temp_ / "first", other, temp_ / "second");
    convert(temp_ / "second", *format, temp_ / "third");
    EXPECT_TRUE(std::filesystem::exists(temp_ / "second" / name(other, shard)));
    for (const std::string& file :
         {name(*format, shard), std::string(format->mark_file()), std::string("config.json"),
          std::string(kRotationFile), std::string("Tiny_best_practice.yaml")})
      EXPECT_EQ(content(temp_ / "third" / file), content(temp_ / "first" / file)) << file;
    for (const char* directory : {"first", "second", "third"})
      std::filesystem::remove_all(temp_ / directory);
  }
}

TEST_F(Convert, RefusesWhatItCannotCarryOver) {
  std::filesystem::remove(temp_ / "model" / hf::kDescriptionFile);
  EXPECT_EQ(error_of([&] { convert(temp_ / "model", ascendv1_format(), temp_ / "second"); }).code(),
            ErrorCode::kUsage);
  write(compressed_tensors_format(), [](const std::string&) {
    return quant::LinearScheme{{.bits = 4}, {.bits = 16}};
  });
  EXPECT_EQ(error_of([&] {
              convert(temp_ / "first", compressed_tensors_format(), temp_ / "second");
            }).code(),
            ErrorCode::kUsage);
  EXPECT_THAT(
      error_of([&] { convert(temp_ / "first", ascendv1_format(), temp_ / "second"); }).what(),
      HasSubstr("W4A16 is not written as AscendV1"));
  EXPECT_FALSE(std::filesystem::exists(temp_ / "second"));
}

TEST_F(Convert, RescalesRowsOfLinearsAndNothingElse) {
  for (const Format* format : {&ascendv1_format(), &compressed_tensors_format()}) {
    write(*format, schemes_of_both);
    const auto first = hf::open_quantized(temp_ / "first");
    // Of 4 bits, of 4 bits beside 8 with the bias of its scales, and of 8 bits in groups.
    RowFactors factors;
    for (const char* name : {"mlp.up_proj", "self_attn.o_proj", "mlp.down_proj"}) {
      const std::string linear = std::string("model.layers.1.") + name;
      for (int64_t i = 0; i < first->codes(linear).rows(); ++i)
        factors[linear].push_back(1.0f + static_cast<float>(i % 7 - 3) / 50);
    }
    Rescaling::check(temp_ / "first", temp_ / "second", {});
    EXPECT_FALSE(std::filesystem::exists(temp_ / "second"));
    Rescaling(temp_ / "first", temp_ / "second", {}).write(factors);
    EXPECT_TRUE(inspect(temp_ / "second").loads() == inspect(temp_ / "first").loads());
    const auto second = hf::open_quantized(temp_ / "second");
    for (const auto& [name, tensor] : first->files().tensors()) {
      const TensorView& other = second->files().at(name);
      ASSERT_EQ(tensor.shape, other.shape) << name;
      const auto factor = factors.find(name.substr(0, name.rfind('.')));
      const bool changes = factor != factors.end() &&
                           (name.ends_with(".weight_scale") || name.ends_with(".scale_bias"));
      if (!changes) {
        EXPECT_EQ(std::memcmp(tensor.data, other.data, static_cast<size_t>(tensor.size_bytes())), 0)
            << name;
        continue;
      }
      const Mat<float> before = to_f32(tensor), after = to_f32(other);
      // Scales that engines hold in the model's dtype, or were values of it, are such values again.
      const double step = name.ends_with(".weight_scale") ? std::ldexp(1, -8) : 1e-6;
      for (int64_t i = 0; i < before.rows(); ++i)
        for (int64_t j = 0; j < before.cols(); ++j) {
          const double expected =
              static_cast<double>(before(i, j)) * factor->second[static_cast<size_t>(i)];
          ASSERT_NEAR(after(i, j), expected, step * std::fabs(expected)) << name << i << "," << j;
        }
    }
    for (const char* directory : {"first", "second"})
      std::filesystem::remove_all(temp_ / directory);
  }
  std::filesystem::remove(temp_ / "model" / hf::kDescriptionFile);
  EXPECT_EQ(error_of([&] { Rescaling::check(temp_ / "model", temp_ / "second", {}); }).code(),
            ErrorCode::kUsage);
}

}  // namespace
}  // namespace laos::save
