// A model of two tiny layers, and AscendV1 directories of it made by hand,
// which tests damage one way each.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hf/ascendv1.h"
#include "hf/config.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "quant/scheme.h"
#include "save/ascendv1.h"
#include "save/checkpoint_writer.h"
#include "save/format.h"
#include "support/temporary_directory.h"

namespace laos::save {

namespace fs = std::filesystem;

using TempDir = test::TemporaryDirectory;

inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const fs::path& path) { return io::read_text(path, int64_t{1} << 30); }

// What `f` throws.
template <class F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorCode::kInternal, Problem{});
}

// Names in a directory, sorted.
inline std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline nlohmann::ordered_json tiny_config_json(int64_t num_layers = 2) {
  return {{"architectures", {"Qwen3ForCausalLM"}},
          {"attention_bias", false},
          {"head_dim", 8},
          {"hidden_act", "silu"},
          {"hidden_size", 16},
          {"intermediate_size", 24},
          {"max_position_embeddings", 64},
          {"model_type", "qwen3"},
          {"num_attention_heads", 4},
          {"num_hidden_layers", num_layers},
          {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-06},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"},
          {"vocab_size", 10}};
}

inline hf::Config tiny_config(int64_t num_layers = 2) {
  hf::Config config;
  config.architecture = "Qwen3ForCausalLM";
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = num_layers;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 10;
  return config;
}

inline quant::LinearScheme w4a4() { return {{.bits = 4}, {.bits = 4}}; }
inline quant::LinearScheme w8a8() { return {{.bits = 8}, {.bits = 8}}; }

// Gate and up W4A4, o FLOAT, all else W8A8.
inline std::optional<quant::LinearScheme> mixed_schemes(const std::string& linear) {
  if (linear.ends_with("o_proj")) return std::nullopt;
  return linear.ends_with("gate_proj") || linear.ends_with("up_proj") ? w4a4() : w8a8();
}

inline std::string description_of(std::vector<OutputTensor> tensors) {
  CheckpointJob job;
  job.tensors = std::move(tensors);
  return description_json(job);
}

// An AscendV1 directory before it is written; tests change any part of it.
struct HandMade {
  struct Tensor {
    io::TensorSpec spec;
    std::vector<std::byte> data;
  };
  nlohmann::ordered_json config;
  nlohmann::ordered_json description;
  std::vector<Tensor> tensors;
  bool with_index = true;

  // Correct, with codes 1, scales 0.5, offsets 0 and floats 1.
  HandMade() : HandMade(tiny_config(), tiny_config_json(), mixed_schemes) {}
  HandMade(const hf::Config& model, nlohmann::ordered_json json, const SchemeLookup& scheme_of)
      : config(std::move(json)) {
    const auto outputs = output_tensors(model, DType::kBF16, scheme_of);
    description = nlohmann::ordered_json::parse(description_of(outputs));
    for (const OutputTensor& output : outputs) {
      float value = 1;
      if (output.spec.name.ends_with("_scale")) value = 0.5f;
      if (output.spec.name.ends_with("_offset")) value = 0;
      add(output.spec, value);
    }
  }

  void add(const io::TensorSpec& spec, float value) {
    tensors.push_back({spec, {}});
    fill(spec.name, value);
  }
  Tensor& at(const std::string& name) {
    for (Tensor& tensor : tensors)
      if (tensor.spec.name == name) return tensor;
    throw std::runtime_error("no tensor " + name);
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.spec.name == name; });
  }
  // All elements of the tensor, in its dtype.
  void fill(const std::string& name, float value) {
    Tensor& tensor = at(name);
    tensor.data.resize(static_cast<size_t>(tensor.spec.size_bytes()));
    for (int64_t i = 0; i < num_elements(tensor.spec.shape); ++i) set(name, i, value);
  }
  void set(const std::string& name, int64_t i, float value) {
    Tensor& tensor = at(name);
    std::byte* target = tensor.data.data() + i * size_of(tensor.spec.dtype);
    if (size_of(tensor.spec.dtype) == 1)
      *target = static_cast<std::byte>(static_cast<int8_t>(value));
    else if (tensor.spec.dtype == DType::kI32)
      std::memset(target, 0, 4);
    else
      from_f32(&value, 1, tensor.spec.dtype, target);
  }
  void reshape(const std::string& name, DType dtype, Shape shape) {
    at(name).spec.dtype = dtype;
    at(name).spec.shape = std::move(shape);
    fill(name, 1);
  }

  void write(const fs::path& directory) const {
    std::vector<io::TensorSpec> specs;
    for (const Tensor& tensor : tensors) specs.push_back(tensor.spec);
    fs::create_directories(directory);
    io::ShardedWriter writer(directory,
                             io::plan_shards(specs, "quant_model_weights", int64_t{1} << 30));
    for (const Tensor& tensor : tensors) writer.write(tensor.spec.name, tensor.data);
    writer.commit();
    if (with_index)
      write_text(directory / "quant_model_weights.safetensors.index.json", writer.index_json());
    write_text(directory / "config.json", config.dump(2));
    write_text(directory / "tokenizer.json", "{}");
    write_text(directory / "quant_model_description.json", description.dump(4));
  }
};

// Whether hf::AscendV1Checkpoint does not take the directory.
inline bool open_refuses(const fs::path& directory) {
  try {
    hf::AscendV1Checkpoint::open(directory);
    return false;
  } catch (const Error&) {
    return true;
  }
}

// The float model's directory that a writer copies from.
inline void write_model_directory(const fs::path& directory) {
  fs::create_directories(directory);
  write_text(directory / "config.json", tiny_config_json().dump(2));
  write_text(directory / "tokenizer.json", "{\"tokenizer\": 1}");
  write_text(directory / "chat_template.jinja", "{{ messages }}");
  write_text(directory / "modeling.py", "# code");
  write_text(directory / "merges.txt", "a b");
  write_text(directory / "model.safetensors.index.json", "{}");
  write_text(directory / "model.safetensors", "weights");
  write_text(directory / "tokenizer.model", "binary");
  write_text(directory / "quant_model_description.json", "of another run");
  fs::create_directories(directory / "folder.json");
}

}  // namespace laos::save
