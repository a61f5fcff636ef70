#include "save/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "hf/ascendv1.h"
#include "save/checkpoint_writer.h"
#include "save/fixtures.h"

namespace laos::save {
namespace {

using testing::ElementsAre;

std::vector<OutputTensor> tensors_of(const Format& format, const quant::LinearScheme& scheme) {
  const std::string label = quant::label_of(scheme).value();
  std::vector<OutputTensor> tensors;
  std::vector<Problem> problems;
  format.plan_linear({.name = "model.layers.0.self_attn.q_proj",
                      .out_features = 2,
                      .in_features = 8,
                      .scheme = scheme,
                      .has_bias = true},
                     label, scheme::find(label), DType::kBF16, tensors, problems);
  EXPECT_TRUE(problems.empty());
  for (OutputTensor& tensor : tensors) tensor.layer_idx = 0;
  return tensors;
}

quant::IntWeight small_weight() {
  quant::IntWeight weight{.spec = {}, .q = Mat<int8_t>(2, 8), .scale = {0.5f, 2.0f}};
  for (int64_t i = 0; i < weight.q.size(); ++i) weight.q.data()[i] = static_cast<int8_t>(i % 7);
  return weight;
}

template <class F>
ErrorCode code_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.code();
  }
  return ErrorCode::kInternal;
}

class Formats : public testing::Test {
 protected:
  void SetUp() override { write_model_directory(temp_ / "model"); }
  CheckpointJob job(std::vector<OutputTensor> tensors) {
    return {.save_path = temp_ / "out",
            .model_directory = temp_ / "model",
            .float_dtype = DType::kBF16,
            .tensors = std::move(tensors),
            .max_shard_bytes = 0,
            .model_type = "Tiny",
            .recipe_yaml = "apiversion: modelslim_v1\n"};
  }
  io::TensorFiles written() {
    return io::TensorFiles::open_files(hf::top_level_safetensors(temp_ / "out"));
  }
  TempDir temp_;
};

TEST_F(Formats, AscendV1KeepsTheBiasOfAQuantizedLinearAsAFloatTensor) {
  CheckpointWriter writer(job(tensors_of(ascendv1_format(), w8a8())));
  const std::vector<float> bias = {1.5f, -3.1f};
  writer.write_linear("model.layers.0.self_attn.q_proj", small_weight(), nullptr, bias);
  writer.commit();
  const io::TensorFiles files = written();
  const TensorView& tensor = files.at("model.layers.0.self_attn.q_proj.bias");
  EXPECT_EQ(tensor.dtype, DType::kF32);
  const Mat<float> values = to_f32(tensor);
  EXPECT_THAT(std::vector<float>(values.data(), values.data() + values.size()),
              ElementsAre(1.5f, -3.1f));
  const hf::Description description = hf::read_description(temp_ / "out");
  EXPECT_EQ(*description.find("model.layers.0.self_attn.q_proj.bias"), "FLOAT");
  EXPECT_EQ(*description.find("model.layers.0.self_attn.q_proj.weight"), "W8A8_DYNAMIC");
}

TEST_F(Formats, AscendV1AddsTheBiasOfStaticActivationsInItsIntegersToo) {
  CheckpointWriter writer(job(tensors_of(
      ascendv1_format(), {.weight = {.bits = 8}, .act = {.bits = 8, .is_static = true}})));
  const quant::IntWeight weight = small_weight();
  const quant::StaticRange input = {.scale = 0.5f, .offset = -3};
  const std::vector<float> bias = {1.5f, -3.0f};
  writer.write_linear("model.layers.0.self_attn.q_proj", weight, &input, bias);
  writer.commit();
  const io::TensorFiles files = written();
  EXPECT_EQ(files.at("model.layers.0.self_attn.q_proj.bias").dtype, DType::kF32);
  int32_t sums[2] = {};
  for (int64_t j = 0; j < 8; ++j)
    for (int64_t i = 0; i < 2; ++i) sums[i] += weight.q(i, j);
  // deq_scale is 0.25 and 1.
  int32_t stored[2];
  std::memcpy(stored, files.at("model.layers.0.self_attn.q_proj.quant_bias").data, sizeof stored);
  EXPECT_EQ(stored[0], 3 * sums[0] + 6);
  EXPECT_EQ(stored[1], 3 * sums[1] - 3);
}

// What a second format is: one class.
class Toy : public Format {
 public:
  scheme::CheckpointFormat id() const noexcept override {
    return scheme::CheckpointFormat::kAscendV1;
  }
  std::string_view name() const noexcept override { return "toy"; }
  std::string_view title() const noexcept override { return "toy"; }
  std::string_view saver_type() const noexcept override { return "toy_saver"; }
  std::string_view weights_stem() const noexcept override { return "toy"; }
  std::string_view index_file() const noexcept override { return "toy.index.json"; }
  std::string_view mark_file() const noexcept override { return "toy.json"; }
  bool owns(const std::filesystem::path& weights) const override {
    return weights.filename().string().starts_with("toy");
  }
  void plan_linear(const OutputLinear& linear, const std::string& label,
                   const scheme::Scheme* /*scheme*/, DType /*float_dtype*/,
                   std::vector<OutputTensor>& tensors,
                   std::vector<Problem>& /*problems*/) const override {
    tensors.push_back(
        {{linear.name + ".codes", DType::kI8, {linear.out_features, linear.in_features}},
         label,
         linear.name});
  }
  void encode(const LinearValues& values, const LinearSink& sink) const override {
    sink.write("codes", values.weight.q);
  }
  std::vector<TextFile> side_files(const CheckpointJob& /*job*/) const override {
    return {{"toy.json", "{}"}};
  }
};

TEST_F(Formats, AnotherFormatIsAClassThatTheSameWriterWrites) {
  const Toy toy;
  CheckpointJob toys = job(tensors_of(toy, w4a4()));
  toys.format = &toy;
  for (int round = 0; round < 2; ++round) {  // the second replaces the first
    CheckpointWriter writer(toys);
    writer.begin_layer(0);
    writer.write_linear("model.layers.0.self_attn.q_proj", small_weight());
    writer.finish_layer("");
    writer.commit();
  }
  EXPECT_THAT(names_in(temp_ / "out"), testing::IsSupersetOf({"toy.json", "toy.safetensors"}));
  EXPECT_FALSE(std::filesystem::exists(temp_ / "out" / hf::kDescriptionFile));
  EXPECT_EQ(written().tensors().size(), 1u);
  // AscendV1 does not take their place.
  EXPECT_EQ(code_of([&] { check_output_path(job(tensors_of(ascendv1_format(), w4a4())), 0); }),
            ErrorCode::kUsage);
}

}  // namespace
}  // namespace laos::save
