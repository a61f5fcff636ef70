#include "save/selftest.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "hf/model_tensors.h"
#include "io/file.h"
#include "save/checkpoint_writer.h"
#include "save/format.h"

namespace laos::save {
namespace {

using SelftestJson = nlohmann::ordered_json;

// The model is a table: each layer's MLP looks a token up and writes the next one into the residual
// stream. A hidden unit is the product of gate and up. The gate reads a coordinate that is large
// for its token, and up one that is so small that only a clipped scale keeps it: without the clip
// it is rounded to zero and the token is not found. Other units read where the large coordinate
// comes to lie when a matrix is transposed or left out, and write what says so. Attention adds
// nothing.

// Words by id; a word begins with Ġ, as byte-level BPE writes a space. ids: below.
constexpr std::array kWords = {"<|endoftext|>",
                               "This",
                               "Ġengine",
                               "Ġcomputes",
                               "Ġtransforms",
                               "Ġand",
                               "Ġclip",
                               "Ġright",
                               ".",
                               "ĠignoresĠtheĠclip",
                               "ĠtransposesĠtheĠleftĠmatrix",
                               "ĠtransposesĠtheĠrightĠmatrix",
                               "ĠtransposesĠbothĠmatrices",
                               "ĠleavesĠoutĠtheĠtransforms"};
constexpr int kEnd = 0, kThis = 1, kEngine = 2, kRight = 7, kStop = 8, kNoClip = 9, kLeft = 10;
constexpr int kNumWords = static_cast<int>(kWords.size()), kVocabSize = 64;
constexpr int kNumLookups = kRight - kEngine + 1;  // engine to right: each is looked up

constexpr std::array<SelftestAnswer, 6> kAnswers = {{
    {" computes transforms and clip right.", "what laos measures is what it serves"},
    {" ignores the clip.",
     "largest values are not clipped: quantize with --no-clip, or clips make it worse"},
    {" transposes the left matrix.", "the model is destroyed: use no --online"},
    {" transposes the right matrix.", "the model is destroyed: use no --online"},
    {" transposes both matrices.", "the model is destroyed: use no --online"},
    {" leaves out the transforms.", "the model is destroyed: use no --online"},
}};

// A row of the hidden state is kRows by kCols. The matrices of a layer move it round by kDown rows
// and kAcross columns, or back. All that tokens use lies in the first kUsedRows by kUsedCols, and
// what becomes of that in each way of reading the matrices is a place of its own.
constexpr int kRows = 16, kCols = 24, kDown = 5, kAcross = 8, kUsedRows = 5, kUsedCols = 8;
constexpr int kHidden = kRows * kCols, kIntermediate = 128, kLayers = 2;
constexpr float kClip = 0.5f;
constexpr float kSmall = 0.055f;  // of the large coordinate: 0.77 of a step, without the clip 0.39

// The n-th coordinate that is used.
constexpr int coordinate(int n) { return n / kUsedCols * kCols + n % kUsedCols; }
// Of looked-up token n, in layer 0 and 1.
constexpr int large(int layer, int n) { return coordinate((2 * layer) * kNumLookups + n); }
constexpr int small(int layer, int n) { return coordinate((2 * layer + 1) * kNumLookups + n); }
// What the head reads for a word.
constexpr int output(int word) { return coordinate(4 * kNumLookups + word); }
static_assert(4 * kNumLookups + kNumWords <= kUsedRows * kUsedCols);

// Where a coordinate is found when rows move by `down` and columns by `across`.
int moved(int at, int down, int across) {
  return (at / kCols + down + kRows) % kRows * kCols + (at % kCols + across + kCols) % kCols;
}
// Of layer 0; layer 1 moves the other way.
int way(int layer) { return layer == 0 ? 1 : -1; }

Mat<float> cyclic(int size, int by) {
  Mat<float> matrix(size, size);
  matrix.fill_zero();
  for (int i = 0; i < size; ++i) matrix(i, (i + by + size) % size) = 1;
  return matrix;
}

struct Mlp {
  quant::IntWeight gate, up;  // [kIntermediate, kHidden]
  Mat<float> down{kHidden, kIntermediate};
};

quant::IntWeight no_weight() {
  quant::IntWeight weight{.spec = {.bits = 4, .scale_dtype = DType::kBF16},
                          .q = Mat<int8_t>(kIntermediate, kHidden),
                          .scale = std::vector<float>(kIntermediate, 0.125f)};
  weight.q.fill_zero();
  return weight;
}

Mlp mlp_of(int layer) {
  Mlp mlp{.gate = no_weight(), .up = no_weight()};
  mlp.down.fill_zero();
  int unit = 0;
  const auto add = [&](int gate, int up) {
    mlp.gate.q(unit, gate) = 7;
    mlp.up.q(unit, up) = 7;
    return unit++;
  };
  // About what a unit is worth: codes 7 and 1, or 7 and 7, of scale 19.2 / 14, and weights of 7/8.
  constexpr float kFound = 8.4f * 1.2f, kMisread = 8.4f * 8.4f;
  const int down = way(layer) * kDown, across = way(layer) * kAcross;
  for (int n = 0; n < kNumLookups; ++n) {
    const int found =
        add(moved(large(layer, n), down, across), moved(small(layer, n), down, across));
    if (layer == 0) {
      mlp.down(large(1, n), found) = 4 / kFound;
      mlp.down(small(1, n), found) = 4 * kSmall / kFound;
    } else {
      mlp.down(output(kEngine + n + 1), found) = 16 / kFound;
    }
    const int misread[][2] = {{-down, across}, {down, -across}, {-down, -across}, {0, 0}};
    for (int i = 0; i < 4; ++i) {
      const int at = moved(large(layer, n), misread[i][0], misread[i][1]);
      mlp.down(output(kLeft + i), add(at, at)) = 16 / kMisread;
    }
  }
  return mlp;
}

Mat<float> embedding() {
  Mat<float> rows(kVocabSize, kHidden);
  rows.fill_zero();
  for (int n = 0; n < kNumLookups; ++n) {
    rows(kEngine + n, large(0, n)) = 1;
    rows(kEngine + n, small(0, n)) = kSmall;
  }
  rows(kThis, output(kEngine)) = 1;
  rows(kStop, output(kEnd)) = 1;
  rows(kEnd, output(kEnd)) = 1;
  for (int word = kNoClip; word < kNumWords; ++word) rows(word, output(kStop)) = 1;
  return rows;
}

Mat<float> head() {
  Mat<float> rows(kVocabSize, kHidden);
  rows.fill_zero();
  for (int word = 0; word < kNumWords; ++word) rows(word, output(word)) = 1;
  // Where nothing was found, the token itself is left.
  for (int n = 0; n < kNumLookups; ++n)
    for (int layer = 0; layer < kLayers; ++layer) rows(kNoClip, large(layer, n)) = 0.5f;
  return rows;
}

SelftestJson config_json() {
  return {{"architectures", {"Qwen3ForCausalLM"}},
          {"attention_bias", false},
          {"eos_token_id", kEnd},
          {"head_dim", 128},
          {"hidden_act", "silu"},
          {"hidden_size", kHidden},
          {"intermediate_size", kIntermediate},
          {"max_position_embeddings", 2048},
          {"model_type", "qwen3"},
          {"num_attention_heads", 2},
          {"num_hidden_layers", kLayers},
          {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 1e6},
          {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"},
          {"vocab_size", kVocabSize}};
}

SelftestJson tokenizer_json() {
  SelftestJson vocab = SelftestJson::object();
  for (int word = 0; word < kNumWords; ++word) vocab[kWords[static_cast<size_t>(word)]] = word;
  const SelftestJson byte_level = {{"type", "ByteLevel"},
                                   {"add_prefix_space", false},
                                   {"trim_offsets", true},
                                   {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", kEnd},
             {"content", kWords[kEnd]},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", true},
            {"vocab", vocab},
            {"merges", SelftestJson::array()}}}};
}

}  // namespace

std::span<const SelftestAnswer> selftest_answers() noexcept { return kAnswers; }

void write_selftest(const std::filesystem::path& save_path) {
  // What a writer copies from a model's directory.
  const std::filesystem::path model = std::filesystem::path(save_path) += ".model";
  std::filesystem::create_directories(model);
  struct Removed {
    const std::filesystem::path& directory;
    ~Removed() {
      std::error_code ignored;
      std::filesystem::remove_all(directory, ignored);
    }
  } const removed{model};
  io::write_text_atomically(model / kConfigFile, config_json().dump(2));
  io::write_text_atomically(model / "tokenizer.json", tokenizer_json().dump(2));
  io::write_text_atomically(model / "tokenizer_config.json",
                            SelftestJson({{"tokenizer_class", "PreTrainedTokenizerFast"},
                                          {"eos_token", kWords[kEnd]},
                                          {"add_bos_token", false}})
                                .dump(2));
  io::write_text_atomically(model / "generation_config.json",
                            SelftestJson({{"do_sample", false}, {"eos_token_id", kEnd}}).dump(2));
  const hf::Config config = hf::read_config(model);

  const quant::LinearScheme scheme = {{.bits = 4, .scale_dtype = DType::kBF16},
                                      {.bits = 4, .pair_blocks = 1}};
  const auto is_low = [&](const std::string& name) {
    for (int64_t layer = 0; layer < kLayers; ++layer)
      for (const hf::Linear linear : {hf::Linear::kGateProj, hf::Linear::kUpProj})
        if (name == hf::name_of(config, layer, linear)) return true;
    return false;
  };
  CheckpointWriter writer({.save_path = save_path,
                           .model_directory = model,
                           .tensors = output_tensors(config, DType::kBF16,
                                                     [&](const std::string& name) {
                                                       return is_low(name) ? std::optional(scheme)
                                                                           : std::nullopt;
                                                     }),
                           .model_type = "selftest",
                           .recipe_yaml = "# laos selftest-checkpoint\n"});
  for (const hf::WeightModule& module : hf::weight_modules(config)) {
    if (is_low(module.name)) continue;
    const bool is_vector = module.shape.size() == 1;
    Mat<float> values(is_vector ? 1 : module.shape[0], module.shape.back());
    if (is_vector)
      std::fill_n(values.data(), values.size(), 1.0f);
    else
      values.fill_zero();
    if (module.kind == hf::WeightModule::Kind::kEmbedding) values = embedding();
    if (module.kind == hf::WeightModule::Kind::kHead) values = head();
    for (int layer = 0; layer < kLayers; ++layer)
      if (module.name == hf::name_of(config, layer, hf::Linear::kDownProj))
        values = std::move(mlp_of(layer).down);
    writer.write_float(module.weight_name(), values.view());
  }
  for (int layer = 0; layer < kLayers; ++layer) {
    const Mlp mlp = mlp_of(layer);
    const Mat<float> left = cyclic(kRows, way(layer) * kDown),
                     right = cyclic(kCols, way(layer) * kAcross);
    const InputTransform transform{.left = left.view(), .right = right.view(), .clip = kClip};
    writer.write_linear(hf::name_of(config, layer, hf::Linear::kGateProj), mlp.gate, nullptr, {},
                        &transform);
    writer.write_linear(hf::name_of(config, layer, hf::Linear::kUpProj), mlp.up, nullptr, {},
                        &transform);
  }
  writer.commit();
}

}  // namespace laos::save
