#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/threads.h"
#include "hf/model_tensors.h"
#include "io/safetensors.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::model {
namespace {

using test::TemporaryDirectory;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

// A synthetic checkpoint whose tensors a test may change before they are written again.
class EditedCheckpoint {
 public:
  struct Tensor {
    DType dtype;
    Shape shape;
    std::vector<std::byte> bytes;
  };

  explicit EditedCheckpoint(hf::Config config = test::qwen3_config("tiny")) {
    test::write_synthetic({.config = std::move(config)}, dir_.path());
    const io::TensorFiles files = io::TensorFiles::open(dir_.path(), "model");
    for (const auto& [name, view] : files.tensors())
      tensors[name] = {view.dtype, view.shape, {view.data, view.data + view.size_bytes()}};
  }

  // Writes `tensors` over model.safetensors and opens the directory.
  Checkpoint open() {
    std::vector<io::TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
    io::ShardedWriter writer(dir_.path(), io::plan_shards(specs, "model", 0));
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor.bytes);
    writer.commit();
    return Checkpoint::open(dir_.path());
  }
  std::string problem(ErrorCode code) {
    try {
      open();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "";
  }
  void set(const std::string& name, Shape shape, DType dtype, const std::vector<float>& values) {
    Tensor tensor{dtype, std::move(shape),
                  std::vector<std::byte>(values.size() * static_cast<size_t>(size_of(dtype)))};
    from_f32(values.data(), std::ssize(values), dtype, tensor.bytes.data());
    tensors[name] = std::move(tensor);
  }

  std::map<std::string, Tensor> tensors;

 private:
  TemporaryDirectory dir_;
};

std::string message_of(const std::function<void()>& f, ErrorCode code) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(Linears, HaveHuggingFaceNamesAndShapes) {
  const hf::Config config = test::qwen3_config("0.6b");
  std::map<std::string, Shape> shapes;
  for (const hf::WeightModule& module : hf::weight_modules(config))
    shapes[module.name] = module.shape;
  for (const Linear linear : kAllLinears)
    EXPECT_EQ(shapes.at(name_of(config, 3, linear)),
              (Shape{out_features(config, linear), in_features(config, linear)}))
        << path_of(config, linear);
  EXPECT_EQ(name_of(config, 3, Linear::kUpProj), "model.layers.3.mlp.up_proj");
  EXPECT_EQ(path_of(config, Linear::kQProj), "self_attn.q_proj");
  EXPECT_EQ(out_features(config, Linear::kQProj), 2048);
  EXPECT_EQ(in_features(config, Linear::kOProj), 2048);
  EXPECT_EQ(out_features(config, Linear::kVProj), 1024);
}

TEST(Checkpoint, LoadsTheTensorsOfTheLayerThatIsAskedFor) {
  const TemporaryDirectory dir;
  const hf::Config config = test::qwen3_config("tiny");
  test::write_synthetic({.config = config}, dir.path());
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  for (int64_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    const LayerWeights weights = checkpoint.load_layer(layer_idx);
    const std::string prefix = "model.layers." + std::to_string(layer_idx) + ".";
    const auto expect_same = [&](const Mat<float>& loaded, const std::string& path) {
      const Mat<float> expected = to_f32(checkpoint.files().at(prefix + path + ".weight"));
      ASSERT_EQ(loaded.rows(), expected.rows()) << path;
      ASSERT_EQ(loaded.cols(), expected.cols()) << path;
      EXPECT_EQ(
          std::memcmp(loaded.data(), expected.data(), static_cast<size_t>(expected.size()) * 4), 0)
          << path;
    };
    for (const Linear linear : kAllLinears)
      expect_same(weights[linear], std::string(path_of(config, linear)));
    expect_same(weights.input_layernorm, "input_layernorm");
    expect_same(weights.post_attention_layernorm, "post_attention_layernorm");
    expect_same(weights.q_norm, "self_attn.q_norm");
    expect_same(weights.k_norm, "self_attn.k_norm");
  }
  EXPECT_EQ(checkpoint.final_norm().cols(), config.hidden_size);
  EXPECT_EQ(checkpoint.lm_head().name, "lm_head.weight");
  EXPECT_EQ(checkpoint.embed_tokens().shape, (Shape{320, 64}));
  checkpoint.check_head_finite();
}

TEST(Checkpoint, OpensShards) {
  const TemporaryDirectory one, many;
  test::write_synthetic({.config = test::qwen3_config("tiny")}, one.path());
  test::write_synthetic({.config = test::qwen3_config("tiny"), .max_shard_bytes = 60'000},
                        many.path());
  EXPECT_FALSE(fs::exists(many / "model.safetensors"));
  const Checkpoint a = Checkpoint::open(one.path()), b = Checkpoint::open(many.path());
  const LayerWeights wa = a.load_layer(1), wb = b.load_layer(1);
  for (const Linear linear : kAllLinears)
    EXPECT_EQ(std::memcmp(wa[linear].data(), wb[linear].data(),
                          static_cast<size_t>(wa[linear].size()) * 4),
              0);
}

TEST(Checkpoint, ATiedModelUsesTheEmbeddingWhetherOrNotALmHeadIsThere) {
  hf::Config config = test::qwen3_config("tiny");
  config.tie_word_embeddings = true;
  EditedCheckpoint edited(config);
  EXPECT_FALSE(edited.tensors.contains("lm_head.weight"));
  EXPECT_EQ(edited.open().lm_head().name, "model.embed_tokens.weight");
  edited.tensors["lm_head.weight"] = edited.tensors.at("model.embed_tokens.weight");
  EXPECT_EQ(edited.open().lm_head().name, "model.embed_tokens.weight");
}

TEST(Checkpoint, OfATiedModelWithAHeadOfItsOwnUsesItAndSaysSo) {
  hf::Config config = test::qwen3_config("tiny");
  config.tie_word_embeddings = true;
  EditedCheckpoint edited(config);
  EXPECT_TRUE(edited.open().warnings().empty());
  EditedCheckpoint::Tensor head = edited.tensors.at("model.embed_tokens.weight");
  head.bytes.back() ^= std::byte{1};
  edited.tensors["lm_head.weight"] = head;
  const Checkpoint checkpoint = edited.open();
  EXPECT_EQ(checkpoint.lm_head().name, "lm_head.weight");
  EXPECT_FALSE(checkpoint.config().tie_word_embeddings);
  EXPECT_EQ(checkpoint.warnings().size(), 1u);
  head.shape[0] -= 1;
  head.bytes.resize(static_cast<size_t>(num_elements(head.shape) * size_of(head.dtype)));
  edited.tensors["lm_head.weight"] = head;
  EXPECT_THAT(edited.problem(ErrorCode::kShape), HasSubstr("lm_head.weight"));
}

TEST(Checkpoint, IsReadUnderTheNamesOfWrappersAndWithoutModel) {
  for (const std::string before : {"model.", "module.model.", "base_model.model.model.", ""}) {
    EditedCheckpoint edited;
    std::map<std::string, EditedCheckpoint::Tensor> renamed;
    for (const auto& [name, tensor] : edited.tensors)
      renamed[name.starts_with("model.") ? before + name.substr(6) : name] = tensor;
    edited.tensors = renamed;
    EXPECT_NO_THROW(edited.open().load_layer(1)) << before;
  }
}

TEST(Checkpoint, OfATiedModelMayHaveAnIndexThatNamesTheHead) {
  hf::Config config = test::qwen3_config("tiny");
  config.tie_word_embeddings = true;
  const TemporaryDirectory dir;
  test::write_synthetic({.config = config}, dir.path());
  const io::TensorFiles files = io::TensorFiles::open(dir.path(), "model");
  std::string index;
  for (const auto& [name, view] : files.tensors())
    index += "\"" + name + R"(": "shard.safetensors", )";
  fs::rename(dir / "model.safetensors", dir / "shard.safetensors");
  std::ofstream(dir / "model.safetensors.index.json")
      << R"({"weight_map": {)" << index << R"("lm_head.weight": "shard.safetensors"}})";
  EXPECT_NO_THROW(Checkpoint::open(dir.path()));
}

TEST(Checkpoint, IgnoresRotaryBuffers) {
  EditedCheckpoint edited;
  edited.set("model.layers.0.self_attn.rotary_emb.inv_freq", {2}, DType::kF32, {1, 2});
  EXPECT_NO_THROW(edited.open());
}

TEST(Checkpoint, ListsEveryMissingUnknownAndIntegerTensor) {
  EditedCheckpoint edited;
  edited.tensors.erase("lm_head.weight");
  edited.tensors.erase("model.layers.1.mlp.up_proj.weight");
  edited.set("model.layers.0.self_attn.q_proj.bias", {2}, DType::kF32, {1, 2});
  EditedCheckpoint::Tensor& integer = edited.tensors.at("model.layers.0.mlp.up_proj.weight");
  integer.dtype = DType::kI16;
  EXPECT_THAT(edited.problem(ErrorCode::kFormat),
              AllOf(HasSubstr("4 problems"), HasSubstr(": lm_head.weight"),
                    HasSubstr("a tensor is missing\n  at:  "),
                    HasSubstr(": model.layers.1.mlp.up_proj.weight"),
                    HasSubstr("model.layers.0.self_attn.q_proj.bias"), HasSubstr("dtype I16")));
}

TEST(Checkpoint, ListsEveryWrongShape) {
  EditedCheckpoint edited;
  std::swap(edited.tensors.at("model.layers.0.mlp.up_proj.weight").shape[0],
            edited.tensors.at("model.layers.0.mlp.up_proj.weight").shape[1]);
  edited.tensors.at("model.norm.weight").shape = {64, 1};
  EXPECT_THAT(edited.problem(ErrorCode::kShape),
              AllOf(HasSubstr("2 problems"), HasSubstr("[64, 128], config.json implies [128, 64]"),
                    HasSubstr("model.safetensors: model.norm.weight")));
}

TEST(Checkpoint, TellsOfThousandsOfMissingTensorsOnce) {
  const TemporaryDirectory dir, other;
  test::write_synthetic({.config = test::qwen3_config("tiny")}, dir.path());
  test::write_synthetic({.config = test::qwen3_config("tiny", 30)}, other.path());
  fs::copy_file(other / "config.json", dir / "config.json", fs::copy_options::overwrite_existing);
  EXPECT_THAT(message_of([&] { Checkpoint::open(dir.path()); }, ErrorCode::kFormat),
              AllOf(HasSubstr("a tensor is missing"),
                    HasSubstr("and 307 more like it")));  // 28 layers of 11 tensors
}

TEST(Checkpoint, WidensEveryFloatDtypeExactly) {
  hf::Config config = test::qwen3_config("tiny");
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    EditedCheckpoint edited(config);
    std::vector<float> values(64);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = round_to(dtype, std::ldexp(1.0f + static_cast<float>(i) / 64,
                                             static_cast<int>(i % 40) - 26)) *
                  (i % 2 ? -1.0f : 1.0f);
    values[0] = -0.0f;
    values[1] = 65504.0f;
    if (dtype != DType::kF32) values[1] = round_to(dtype, 65000.0f);
    edited.set("model.norm.weight", {64}, dtype, values);
    const Mat<float> loaded = edited.open().final_norm();
    EXPECT_EQ(std::memcmp(loaded.data(), values.data(), 64 * sizeof(float)), 0) << to_string(dtype);
  }
}

TEST(RowsToF32, MatchesTheDefinitionOfEveryF16Value) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const TensorView view{.name = "t",
                        .dtype = DType::kF16,
                        .shape = {256, 256},
                        .data = reinterpret_cast<const std::byte*>(bits.data())};
  const Mat<float> rows = rows_to_f32(view, 0, 256);
  for (int64_t i = 0; i < 1 << 16; ++i) {
    const float expected = f16_to_float(static_cast<uint16_t>(i));
    if (std::isnan(expected))
      ASSERT_TRUE(std::isnan(rows.data()[i])) << i;
    else
      ASSERT_EQ(std::bit_cast<uint32_t>(rows.data()[i]), std::bit_cast<uint32_t>(expected)) << i;
  }
}

TEST(RowsToF32, ReadsOnlyTheRowsAskedForAtAnyAlignment) {
  std::vector<std::byte> memory(1 + 6 * sizeof(float));
  const std::vector<float> values = {0, 1, 2, 3, 4, 5};
  std::memcpy(memory.data() + 1, values.data(), 6 * sizeof(float));
  const TensorView view{
      .name = "t", .dtype = DType::kF32, .shape = {3, 2}, .data = memory.data() + 1};
  const Mat<float> rows = rows_to_f32(view, 1, 3);
  EXPECT_EQ(rows.rows(), 2);
  EXPECT_THAT(std::vector<float>(rows.data(), rows.data() + 4), testing::ElementsAre(2, 3, 4, 5));
  EXPECT_EQ(rows_to_f32(view, 2, 2).rows(), 0);
}

TEST(Checkpoint, NamesTensorRowAndColumnOfTheFirstValueThatIsNotFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (const float bad : {inf, -inf, std::nanf("")}) {
      EditedCheckpoint edited;
      std::vector<float> values(128 * 64, 1.0f);
      values[100 * 64 + 17] = bad;
      values[100 * 64 + 18] = bad;
      values[127 * 64] = bad;
      edited.set("model.layers.1.mlp.gate_proj.weight", {128, 64}, dtype, values);
      const Checkpoint checkpoint = edited.open();
      EXPECT_NO_THROW(checkpoint.load_layer(0));
      EXPECT_THAT(message_of([&] { checkpoint.load_layer(1); }, ErrorCode::kNumeric),
                  HasSubstr("model.layers.1.mlp.gate_proj.weight, row 100, column 17"));
    }
}

TEST(Checkpoint, FindsTheFirstBadValueOfALargeTensorWithAnyNumberOfThreads) {
  hf::Config config = test::qwen3_config("tiny", 1, 20'000);
  EditedCheckpoint edited(config);
  std::vector<float> values(20'000 * 64, 1.0f);
  for (const int64_t row : {9'999, 5'000, 19'999})
    values[static_cast<size_t>(row) * 64 + 3] = std::nanf("");
  edited.set("lm_head.weight", {20'000, 64}, DType::kBF16, values);
  const Checkpoint checkpoint = edited.open();
  const int before = num_threads();
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    EXPECT_THAT(message_of([&] { checkpoint.check_head_finite(); }, ErrorCode::kNumeric),
                HasSubstr("lm_head.weight, row 5000, column 3"));
  }
  set_num_threads(before);
}

TEST(Checkpoint, KeepsItsMappingWhenTheFileIsDeleted) {
  const TemporaryDirectory dir;
  test::write_synthetic({.config = test::qwen3_config("tiny")}, dir.path());
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  fs::remove(dir / "model.safetensors");
  EXPECT_NO_THROW(checkpoint.load_layer(0));
}

TEST(Checkpoint, IsNotTakenFromAQuantizedOne) {
  const TemporaryDirectory dir;
  test::write_synthetic({.config = test::qwen3_config("tiny")}, dir.path());
  std::ofstream(dir / "quant_model_description.json") << "{}";
  try {
    Checkpoint::open(dir.path());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("already quantized"));
  }
}

TEST(Checkpoint, OpensTheBundledModel) {
  const fs::path model = fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";
  if (!fs::exists(model)) GTEST_SKIP() << model << " is absent";
  const Checkpoint checkpoint = Checkpoint::open(model);
  const hf::Config& config = checkpoint.config();
  EXPECT_EQ(config.hidden_size, 256);
  EXPECT_EQ(config.num_hidden_layers, 8);
  EXPECT_EQ(config.num_attention_heads, 4);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.intermediate_size, 768);
  EXPECT_EQ(config.vocab_size, 4096);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(checkpoint.lm_head().data, checkpoint.embed_tokens().data);
  checkpoint.check_head_finite();
  for (int64_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    const LayerWeights weights = checkpoint.load_layer(layer_idx);
    for (const Linear linear : kAllLinears) {
      double sum_of_squares = 0;
      for (int64_t i = 0; i < weights[linear].size(); ++i)
        sum_of_squares +=
            static_cast<double>(weights[linear].data()[i]) * weights[linear].data()[i];
      const double deviation =
          std::sqrt(sum_of_squares / static_cast<double>(weights[linear].size()));
      EXPECT_GT(deviation, 0.005) << name_of(config, layer_idx, linear);
      EXPECT_LT(deviation, 0.5) << name_of(config, layer_idx, linear);
    }
  }
}

TEST(Synthetic, EqualArgumentsGiveEqualBytesWithAnyNumberOfThreads) {
  const TemporaryDirectory a, b, c;
  const int before = num_threads();
  const test::SyntheticModel model{.config = test::qwen3_config("tiny", 1, 5000), .seed = 7};
  set_num_threads(1);
  test::write_synthetic(model, a.path());
  set_num_threads(3);
  test::write_synthetic(model, b.path());
  set_num_threads(before);
  const auto bytes = [](const TemporaryDirectory& dir) {
    return io::read_text(dir / "model.safetensors", 1 << 30);
  };
  EXPECT_EQ(bytes(a), bytes(b));
  test::write_synthetic({.config = model.config, .seed = 8}, c.path());
  EXPECT_NE(bytes(a), bytes(c));
}

TEST(Synthetic, WeightsHaveTheScaleAndTheOutliersOfARealModel) {
  const TemporaryDirectory dir;
  test::write_synthetic({.config = test::qwen3_config("tiny", 1, 5000)}, dir.path());
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const Mat<float> embedding = rows_to_f32(checkpoint.embed_tokens(), 0, 5000);
  std::vector<double> deviation(64);
  for (int64_t i = 0; i < embedding.rows(); ++i)
    for (int64_t j = 0; j < 64; ++j)
      deviation[static_cast<size_t>(j)] += embedding(i, j) * embedding(i, j) / 5000.0;
  int64_t outliers = 0;
  for (const double variance : deviation) {
    const double ratio = std::sqrt(variance) / 0.02;
    if (ratio > 5)
      ++outliers;
    else
      EXPECT_NEAR(ratio, 1.0, 0.05);
  }
  EXPECT_EQ(outliers, 1);
  const Mat<float> gains = checkpoint.final_norm();
  const auto [low, high] = std::minmax_element(gains.data(), gains.data() + gains.size());
  EXPECT_GE(*low, 0.5f);
  EXPECT_LE(*high, 1.5f);
  EXPECT_GT(*high - *low, 0.5f);
}

}  // namespace
}  // namespace laos::model
