#include "save/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/tensor.h"
#include "core/threads.h"
#include "hf/ascendv1.h"
#include "hf/compressed_tensors.h"
#include "hf/config.h"
#include "hf/gptq.h"
#include "hf/json_file.h"
#include "hf/model_tensors.h"
#include "hf/quantization_config.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "save/format.h"
#include "save/manifest.h"
#include "save/pairs.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;
constexpr int64_t kMaxIndexValues = 4'000'000;
constexpr int64_t kGrain = int64_t{1} << 20;  // elements a task scans

// Number of elements in [0, size) that is_bad, counted in parallel.
template <class IsBad>
int64_t count_bad(int64_t size, IsBad&& is_bad) {
  std::vector<int64_t> counts(static_cast<size_t>((size + kGrain - 1) / kGrain), 0);
  parallel_for_ranges(size, kGrain, [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) count += is_bad(i) ? 1 : 0;
    counts[static_cast<size_t>(begin / kGrain)] = count;
  });
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  return total;
}

// A float tensor in f32; its data in the file need not be aligned.
Buffer<float> values_of(const TensorView& tensor) {
  Buffer<float> values(num_elements(tensor.shape));
  to_f32(tensor, values.data());
  return values;
}

// F32, BF16 or F16 elements that are NaN or infinite.
int64_t count_not_finite(const TensorView& tensor) {
  if (tensor.dtype == DType::kF32)
    return count_bad(num_elements(tensor.shape), [&](int64_t i) {
      float value;
      std::memcpy(&value, tensor.data + i * 4, sizeof value);
      return !std::isfinite(value);
    });
  const uint16_t exponent = tensor.dtype == DType::kBF16 ? 0x7f80 : 0x7c00;
  return count_bad(num_elements(tensor.shape), [&](int64_t i) {
    uint16_t bits;
    std::memcpy(&bits, tensor.data + i * 2, sizeof bits);
    return (bits & exponent) == exponent;
  });
}

std::string_view title_of(scheme::CheckpointFormat format) {
  const auto found = std::ranges::find(formats(), format, &Format::id);
  return (*found)->title();
}

class Inspection {
 public:
  Inspection(const fs::path& directory, const InspectOptions& options)
      : directory_(directory), options_(options) {
    report_.directory = directory;
    const auto format = hf::format_of(directory);
    if (format) format_ = *format;
    is_quantized_ = format.has_value();
    report_.engine = options.engine.value_or(scheme::first_engine_of(format_));
  }

  InspectReport run() {
    const std::vector<fs::path> paths = hf::top_level_safetensors(directory_);
    report_.files = std::ssize(paths);
    const scheme::EngineRow& engine = scheme::row_of(report_.engine);
    if (!engine.loads(format_) && is_quantized_)
      error("the checkpoint is " + std::string(title_of(format_)) + ", of which " +
                std::string(engine.title) + " is not known to load any",
            directory_.string(), "quantize with another --format, or laos convert it");
    if (format_ == scheme::CheckpointFormat::kCompressedTensors)
      return run_compressed_tensors(paths);
    if (format_ == scheme::CheckpointFormat::kGptq) return run_gptq(paths);
    read_config_files();
    if (hf::AscendV1Checkpoint::is_ascendv1(directory_))
      attempt([&] { description_ = hf::read_description(directory_); });
    else
      error("no description: the engine takes this directory for a float checkpoint",
            (directory_ / hf::kDescriptionFile).string(),
            "quantize the model first, or copy all of the quantized one");
    if (paths.empty())
      error("the directory holds no *.safetensors file", directory_.string(),
            "copy all of the checkpoint");
    else
      attempt([&] { files_ = io::TensorFiles::open_files(paths); });

    if (!description_ && files_)
      for (const auto& [name, tensor] : files_->tensors()) {
        report_.bytes += tensor.size_bytes();
        report_.parameters += num_elements(tensor.shape);
      }
    if (description_ && files_) check_index(paths, hf::kAscendV1IndexFile, hf::kAscendV1Stem);
    if (description_) check_description();
    if (description_ && files_) {
      const hf::StructureProblems problems = hf::check_structure(
          config_ ? &*config_ : nullptr, *description_, files_->tensors(), report_.engine);
      errors_.insert(errors_.end(), problems.broken.begin(), problems.broken.end());
      errors_.insert(errors_.end(), problems.unloadable.begin(), problems.unloadable.end());
      total();
      for (const auto& [name, label] : description_->labels) check_values(name, label);
      check_pairs();
      check_tied_head();
    }
    return finish();
  }

 private:
  InspectReport finish() {
    if (options_.verify_files) {
      report_.verified = verify(directory_);
      // Without a manifest nothing is known; that says nothing about loading.
      std::vector<Problem>& target = report_.verified->has_manifest ? errors_ : warnings_;
      target.insert(target.end(), report_.verified->problems.begin(),
                    report_.verified->problems.end());
    }
    collect(Severity::kError, errors_);
    collect(Severity::kWarning, warnings_);
    return std::move(report_);
  }

  // What opens is whole; then the values, and what the engine makes of each linear.
  InspectReport run_compressed_tensors(const std::vector<fs::path>& paths) {
    report_.model_quant_type = hf::kCompressedTensors;
    require_tokenizer();
    attempt([&] {
      const auto checkpoint = hf::CompressedTensorsCheckpoint::open(directory_);
      files_ = io::TensorFiles::open_files(paths);
      check_index(paths, "model.safetensors.index.json", "model");
      check_modules(checkpoint);
      for (const auto& [name, linear] : checkpoint.linears())
        check_stored(checkpoint, name, linear);
    });
    return finish();
  }

  // The same of GPTQ, whose zero points have been looked at when it opened.
  InspectReport run_gptq(const std::vector<fs::path>& paths) {
    report_.model_quant_type = hf::quant_method_of(directory_);
    require_tokenizer();
    attempt([&] {
      const auto checkpoint = hf::GptqCheckpoint::open(directory_);
      files_ = io::TensorFiles::open_files(paths);
      check_index(paths, "model.safetensors.index.json", "model");
      check_modules(checkpoint);
      check_same_in_all_layers(checkpoint);
    });
    return finish();
  }

  // transformers replaces linears by the end of their names, those of all layers alike.
  void check_same_in_all_layers(const hf::GptqCheckpoint& checkpoint) {
    if (report_.engine != scheme::Engine::kTransformers) return;
    const hf::Config& config = checkpoint.config();
    for (const hf::Linear linear : hf::kAllLinears) {
      const auto is_quantized = [&](int64_t layer) {
        return checkpoint.linears().contains(hf::name_of(config, layer, linear));
      };
      for (int64_t i = 1; i < config.num_hidden_layers; ++i)
        if (is_quantized(i) != is_quantized(0)) {
          error("a linear that is quantized in some layers alone, which the engine cannot tell",
                hf::name_of(config, i, linear), "write compressed-tensors");
          break;
        }
    }
  }

  // What holds for every format that config.json describes.
  void check_modules(const hf::QuantizedCheckpoint& checkpoint) {
    std::map<std::string, size_t> index;
    for (const hf::WeightModule& module : hf::weight_modules(checkpoint.config()))
      check_module(checkpoint, module, index);
    check_fused(checkpoint);
    for (const auto& [name, tensor] : files_->tensors()) check_floats(tensor, checkpoint.config());
  }

  void check_module(const hf::QuantizedCheckpoint& checkpoint, const hf::WeightModule& module,
                    std::map<std::string, size_t>& index) {
    const std::string& label = checkpoint.label(module.name);
    const auto [entry, is_new] = index.try_emplace(label, report_.labels.size());
    if (is_new) report_.labels.push_back({.label = label});
    LabelTotals& totals = report_.labels[entry->second];
    int64_t bytes = 0;
    const std::string prefix = module.name + ".";
    for (auto at = files_->tensors().lower_bound(prefix);
         at != files_->tensors().end() && at->first.starts_with(prefix); ++at)
      if (at->first.find('.', prefix.size()) == std::string::npos) bytes += at->second.size_bytes();
    totals.bytes += bytes;
    report_.bytes += bytes;
    if (bytes == 0) return;  // a tied lm_head
    ++totals.weights;
    totals.parameters += num_elements(module.shape);
    report_.parameters += num_elements(module.shape);
    const scheme::Scheme& scheme = *scheme::find(label);
    if (scheme.is_float()) return;
    const std::vector<float> scales = checkpoint.weight_scale(module.name);
    check_signs(scales.data(), std::ssize(scales), module.name, scheme.signed_scales);
    const int64_t num_groups = std::ssize(scales) / std::max<int64_t>(module.shape[0], 1);
    if (std::string refusal =
            scheme.refused_by(report_.engine, num_groups, hf::names_routed_expert(module.name));
        !refusal.empty())
      error(std::move(refusal), module.name, "quantize with a scheme that it loads");
  }

  void check_stored(const hf::CompressedTensorsCheckpoint& checkpoint, const std::string& name,
                    const hf::CompressedLinear& linear) {
    if (linear.is_packed) return;
    const scheme::Scheme& scheme = *linear.scheme;
    check_codes(checkpoint.weight(name), scheme);
    const bool is_words =
        scheme.weight_bits == 4 || scheme.act_bits == 16 || linear.group_size != 0;
    if (report_.engine == scheme::Engine::kVllm && is_words)
      error("int-quantized weights of a scheme that the engine loads packed only", name,
            "quantize again");
  }

  // "gate_proj is X, up_proj is Y"; "" where all are the same.
  static std::string listed_differing(const std::vector<std::string>& members,
                                      const std::vector<std::string>& labels) {
    std::string listed;
    for (const size_t i : hf::differing(labels))
      listed += (listed.empty() ? "" : ", ") + members[i] + " is " + labels[i];
    return listed;
  }

  // Engines that run such a group as one linear read the scheme of one of them.
  void check_fused(const hf::QuantizedCheckpoint& checkpoint) {
    if (report_.engine == scheme::Engine::kTransformers) return;
    const hf::Config& config = checkpoint.config();
    for (int64_t i = 0; i < config.num_hidden_layers; ++i)
      for (const std::vector<std::string>& group : hf::fused_groups(config, i)) {
        const std::string layer = hf::layer_name(config, i) + ".";
        std::vector<std::string> labels;
        for (const std::string& member : group) labels.push_back(checkpoint.label(layer + member));
        if (const std::string listed = listed_differing(group, labels); !listed.empty())
          error("linears that engines fuse have different schemes: " + listed,
                layer + group.front(), "quantize them with one scheme");
      }
  }

  void check_signs(const float* scales, int64_t size, const std::string& where,
                   bool may_be_negative = false) {
    const auto is_bad = [&](int64_t i) {
      return may_be_negative ? scales[i] == 0 : scales[i] <= 0;
    };
    if (count_bad(size, is_bad) > 0)
      error(may_be_negative ? "scales that are 0" : "scales that are not greater than 0", where,
            "quantize again");
  }

  void check_floats(const TensorView& tensor, const hf::Config& config) {
    if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16)
      return;
    if (count_not_finite(tensor) > 0)
      error("holds NaN or infinity", tensor.name, "quantize again from an undamaged checkpoint");
    if (!tensor.name.ends_with("_scale") && !tensor.name.ends_with(".scales")) return;
    const Buffer<float> values = values_of(tensor);
    // Those of weights, whose scheme may have negative ones, check_module has looked at.
    if (!tensor.name.ends_with(".weight_scale") && !tensor.name.ends_with(".scales"))
      check_signs(values.data(), values.size(), tensor.name);
    if (count_bad(values.size(), [&](int64_t i) {
          return std::isfinite(values[i]) && round_to(config.dtype, values[i]) != values[i];
        }) > 0)
      warn("scales that are not exact in " + std::string(to_string(config.dtype)) +
               "; the engine rounds them",
           tensor.name, "quantize with a scale_dtype that is the model's");
  }

  void error(std::string what, std::string where, std::string fix) {
    errors_.push_back({std::move(what), std::move(where), std::move(fix)});
  }
  void warn(std::string what, std::string where, std::string fix) {
    warnings_.push_back({std::move(what), std::move(where), std::move(fix)});
  }
  void collect(Severity severity, const std::vector<Problem>& problems) {
    for (const hf::ProblemGroup& group : hf::group_over_layers(problems))
      report_.findings.push_back(
          {severity, group.first.what, group.first.where, group.first.fix, group.count});
  }

  // Runs `read`; what it throws is a finding.
  template <class F>
  void attempt(F&& read) {
    try {
      read();
    } catch (const Error& e) {
      errors_.insert(errors_.end(), e.problems().begin(), e.problems().end());
    }
  }

  void read_config_files() {
    const fs::path path = directory_ / "config.json";
    attempt([&] {
      const Json json = hf::parse_json<Json>(io::read_text(path, hf::kMaxConfigBytes), path,
                                             hf::kMaxConfigValues);
      const bool is_marked = json.is_object() && json.contains("quantization_config");
      const bool has_text_config = json.is_object() && json.contains("text_config");
      if (is_marked || (has_text_config && json["text_config"].contains("quantization_config")))
        error("quantization_config makes the engine choose another quantization method",
              path.string(), "remove it from config.json");
      try {
        config_ = hf::read_config(directory_);
      } catch (const Error& e) {
        if (e.code() != ErrorCode::kUnsupported) throw;
        if (is_marked) return;  // the reason, already reported
        for (const Problem& problem : e.problems())
          warn("names and shapes are not checked: " + problem.what, problem.where, "");
      }
    });
    require_tokenizer();
  }

  void require_tokenizer() {
    std::error_code ignored;
    const auto has = [&](const char* name) { return fs::exists(directory_ / name, ignored); };
    if (!has("tokenizer.json") && !has("vocab.json") && !has("tokenizer.model"))
      warn("the directory holds no tokenizer", directory_.string(),
           "copy tokenizer.json and tokenizer_config.json of the model");
  }

  // The engine does without an index; other tools trust it.
  void check_index(const std::vector<fs::path>& paths, const std::string& index_file,
                   const std::string& stem) {
    const fs::path path = directory_ / index_file;
    std::error_code ignored;
    const bool is_sharded = std::any_of(paths.begin(), paths.end(), [&](const fs::path& file) {
      return file.filename() != stem + ".safetensors";
    });
    if (!fs::exists(path, ignored)) {
      if (is_sharded) warn("shards without an index", path.string(), "quantize again");
      return;
    }
    try {
      check_index_json(
          hf::parse_json<Json>(io::read_text(path, kMaxIndexBytes), path, kMaxIndexValues),
          path.string());
    } catch (const Error& e) {
      warnings_.insert(warnings_.end(), e.problems().begin(), e.problems().end());
    }
  }

  void check_index_json(const Json& json, const std::string& path) {
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object()) {
      warn("the index has no weight_map", path, "quantize again");
      return;
    }
    int64_t bytes = 0;
    for (const auto& [name, tensor] : files_->tensors()) {
      bytes += tensor.size_bytes();
      const auto entry = map->find(name);
      if (entry == map->end())
        warn("in the files, but not in the index", name, "quantize again");
      else if (!entry->is_string() || entry->get_ref<const std::string&>() != files_->file_of(name))
        warn("the index names another file than the one that holds it", name, "quantize again");
    }
    for (const auto& [name, unused] : map->items())
      if (!files_->contains(name)) warn("in the index, but in no file", name, "quantize again");
    const Json::json_pointer total_size("/metadata/total_size");
    if (!json.contains(total_size) || !json[total_size].is_number_integer() ||
        json[total_size] != bytes)
      warn("metadata.total_size is not the " + std::to_string(bytes) + " bytes of all tensors",
           path, "quantize again");
  }

  // What the description alone shows.
  void check_description() {
    std::vector<std::string> labels;
    for (const auto& [name, label] : description_->labels) labels.push_back(label);
    report_.model_quant_type = description_->model_quant_type;
    if (const std::string type = scheme::model_quant_type(labels);
        description_->model_quant_type != type)
      warn("model_quant_type is \"" + description_->model_quant_type + "\", the highest label " +
               type,
           (directory_ / hf::kDescriptionFile).string(), "quantize again");
    check_fused();
  }

  void check_fused() {
    for (const std::vector<std::string>& group :
         hf::fused_groups(config_ ? *config_ : hf::Config{}))
      for (const auto& [name, label] : description_->labels) {
        // Each group once, at its first member that is there.
        const std::optional<std::string> layer = layer_of(name, group);
        if (!layer) continue;
        std::vector<std::string> labels;
        bool is_mixed = false;  // what is missing has been reported
        for (const std::string& member : group) {
          const std::string* member_label = description_->find(*layer + member + ".weight");
          is_mixed = is_mixed || (member_label != nullptr && *member_label != label);
          labels.push_back(member_label == nullptr ? "missing" : *member_label);
        }
        if (is_mixed)
          error(
              "linears that engines fuse have different labels: " + listed_differing(group, labels),
              name, "quantize them with one scheme");
      }
  }

  // "model.layers.3." when `name` is the weight of the first described member of `group` in a
  // layer.
  std::optional<std::string> layer_of(const std::string& name,
                                      const std::vector<std::string>& group) {
    for (const std::string& member : group) {
      const std::string suffix = "." + member + ".weight";
      if (!name.ends_with(suffix)) continue;
      const std::string layer = name.substr(0, name.size() - suffix.size() + 1);
      for (const std::string& earlier : group) {
        if (earlier == member) return layer;
        if (description_->find(layer + earlier + ".weight") != nullptr) return std::nullopt;
      }
    }
    return std::nullopt;
  }

  void total() {
    std::map<std::string, size_t> index;
    for (const auto& [name, label] : description_->labels) {
      const TensorView* tensor = files_->find(name);
      if (tensor == nullptr) continue;
      const auto [entry, is_new] = index.try_emplace(label, report_.labels.size());
      if (is_new) report_.labels.push_back({.label = label});
      LabelTotals& totals = report_.labels[entry->second];
      totals.bytes += tensor->size_bytes();
      report_.bytes += tensor->size_bytes();
      if (!name.ends_with(".weight")) continue;
      ++totals.weights;
      totals.parameters += num_elements(tensor->shape);
      report_.parameters += num_elements(tensor->shape);
    }
  }

  void check_values(const std::string& name, const std::string& label) {
    const TensorView* tensor = files_->find(name);
    if (tensor == nullptr) return;
    const bool is_float = tensor->dtype == DType::kF32 || tensor->dtype == DType::kBF16 ||
                          tensor->dtype == DType::kF16;
    if (is_float && count_not_finite(*tensor) > 0)
      error("holds NaN or infinity", name, "quantize again from an undamaged checkpoint");
    if (label == hf::kCacheLabel && is_float) check_cache(*tensor);
    const scheme::Scheme* scheme = scheme::find(label);
    if (scheme == nullptr || scheme->is_float()) return;
    if (name.ends_with(".weight")) check_codes(*tensor, *scheme);
    if (!is_float) return;
    if (name.ends_with("_scale")) check_scales(*tensor, *scheme);
    if (name.ends_with(".weight_offset")) check_offsets(*tensor);
  }

  void check_cache(const TensorView& tensor) {
    const Buffer<float> values = values_of(tensor);
    const bool is_scale = tensor.name.ends_with(hf::kCacheScaleSuffix);
    if (is_scale) check_signs(values.data(), values.size(), tensor.name);
    if (!is_scale && count_bad(values.size(), [&](int64_t i) { return values[i] != 0; }) > 0)
      error("offsets that are not zero, which the engine leaves out when it undoes the codes",
            tensor.name, "quantize again");
  }

  // The matrices of transformed linears.
  void check_pairs() {
    std::set<int64_t> sizes;  // of tensor parallelism
    std::vector<std::pair<int64_t, int64_t>> repeated;  // inputs, rows of the block they repeat
    for (const auto& [name, label] : description_->labels) {
      const scheme::Scheme* scheme = scheme::find(label);
      if (scheme == nullptr || !scheme->transforms || !name.ends_with(".weight")) continue;
      const std::string module = name.substr(0, name.size() - std::string_view(".weight").size());
      check_one_pair(module);
      const TensorView *weight = files_->find(name), *left = files_->find(module + ".left_trans"),
                       *right = files_->find(module + ".right_trans");
      // Of other shapes enough has been said.
      const auto is_matrix = [](const TensorView* tensor) {
        return tensor != nullptr && tensor->shape.size() == 2 && num_elements(tensor->shape) > 0;
      };
      if (hf::num_slices(module) == 1 || !is_matrix(weight) || !is_matrix(left) ||
          !is_matrix(right))
        continue;
      const int64_t inputs = left->shape[0] * right->shape[0];
      if (weight->shape[1] % inputs == 0) sizes.insert(weight->shape[1] / inputs);
      if (are_square(*left, *right))
        repeated.emplace_back(weight->shape[1], repeated_block(*left, *right).rows());
    }
    if (sizes.size() == 1) {
      report_.tensor_parallel_size = *sizes.begin();
      for (int64_t ranks = 1; ranks <= scheme::kMaxTensorParallel; ++ranks)
        if (ranks != *sizes.begin() && std::ranges::all_of(repeated, [&](const auto& linear) {
              return can_repeat(linear.first, ranks, linear.second);
            }))
          report_.other_tensor_parallel_sizes.push_back(ranks);
    }
    if (sizes.size() > 1)
      error("matrices of linears whose inputs engines split are for tensor parallel size " +
                std::to_string(*sizes.begin()) + " and for " + std::to_string(*sizes.rbegin()),
            directory_.string(), "quantize with one tp");
  }

  static bool are_square(const TensorView& left, const TensorView& right) {
    return left.shape[0] == left.shape[1] && right.shape[0] == right.shape[1] &&
           size_of(left.dtype) == 2 && left.dtype == right.dtype;
  }

  // An engine keeps those of the member of a fused group that it loads last.
  void check_one_pair(const std::string& module) {
    for (const std::vector<std::string>& group :
         hf::fused_groups(config_ ? *config_ : hf::Config{})) {
      if (!module.ends_with("." + group.front())) continue;
      const std::string layer = module.substr(0, module.size() - group.front().size());
      for (const std::string& member : group)
        for (const char* part : {"left_trans", "right_trans", "clip_ratio"})
          if (!are_equal(files_->find(module + "." + part),
                         files_->find(layer + member + "." + part)))
            error(std::string(part) + " of linears that engines fuse differ", layer + member,
                  "quantize again");
    }
    if (const TensorView* clip = files_->find(module + ".clip_ratio")) {
      const Buffer<float> values = values_of(*clip);
      if (count_bad(values.size(), [&](int64_t i) { return !(values[i] > 0 && values[i] <= 1); }) >
          0)
        error("a clip_ratio that is not above 0 and at most 1", clip->name, "quantize again");
    }
  }

  // What is missing has been reported.
  static bool are_equal(const TensorView* a, const TensorView* b) {
    return a == nullptr || b == nullptr || a->size_bytes() != b->size_bytes() ||
           std::memcmp(a->data, b->data, static_cast<size_t>(a->size_bytes())) == 0;
  }

  void check_offsets(const TensorView& offsets) {
    const Buffer<float> values = values_of(offsets);
    if (count_bad(values.size(), [&](int64_t i) { return values[i] != 0; }) > 0)
      warn("offsets that are not zero; the engine takes the weight as symmetric", offsets.name,
           "quantize with symmetric: true");
  }

  void check_codes(const TensorView& codes, const scheme::Scheme& scheme) {
    if (scheme.weight_bits != 4 || scheme.packs_rows() || codes.dtype != DType::kI8) return;
    const auto* data = reinterpret_cast<const int8_t*>(codes.data);
    if (count_bad(num_elements(codes.shape),
                  [&](int64_t i) { return data[i] < -8 || data[i] > 7; }) > 0)
      error("codes outside -8..7 in a " + std::string(scheme.label) + " weight", codes.name,
            "quantize again");
    if (codes.shape.size() != 2) return;
    const auto check = [&](const char* what, int64_t size, int64_t multiple) {
      if (size % multiple != 0)
        error(what + (" " + std::to_string(size)) + " is no multiple of " +
                  std::to_string(multiple) + ", as packing to int4 needs",
              codes.name, "keep this linear W8A8 or FLOAT");
    };
    check("in_features", codes.shape[1], scheme.in_multiple);
    check("out_features", codes.shape[0], scheme.out_multiple);
  }

  void check_scales(const TensorView& scales, const scheme::Scheme& scheme) {
    const Buffer<float> values = values_of(scales);
    check_signs(values.data(), values.size(), scales.name, scheme.signed_scales);
    const bool is_rounded =
        report_.engine == scheme::Engine::kSglang || scheme.scales_in_model_dtype;
    if (!is_rounded || !scales.name.ends_with(".weight_scale")) return;
    const DType dtype = config_ ? config_->dtype : DType::kBF16;
    const int64_t inexact = count_bad(values.size(), [&](int64_t i) {
      return std::isfinite(values[i]) && round_to(dtype, values[i]) != values[i];
    });
    if (inexact > 0)
      warn("scales of " + std::string(scheme.label) + " that are not exact in " +
               std::string(to_string(dtype)) + "; the engine rounds them",
           scales.name, "quantize with scale_dtype bfloat16");
  }

  // Of a tied model the engine ignores lm_head, which differs once norms are folded into it.
  void check_tied_head() {
    if (!config_ || !config_->tie_word_embeddings) return;
    const TensorView* head = files_->find(hf::lm_head_name(*config_) + ".weight");
    const TensorView* embedding = files_->find(hf::embed_tokens_name(*config_) + ".weight");
    if (head == nullptr || embedding == nullptr) return;
    const bool same =
        head->dtype == embedding->dtype && head->shape == embedding->shape &&
        std::memcmp(head->data, embedding->data, static_cast<size_t>(head->size_bytes())) == 0;
    const std::string what = "tie_word_embeddings is true: the engine ignores this tensor";
    const std::string fix = "set tie_word_embeddings to false in config.json";
    if (same)
      warn(what + ", here equal to embed_tokens", head->name, fix);
    else
      error(what + " and uses embed_tokens, which differs", head->name, fix);
  }

  fs::path directory_;
  const InspectOptions options_;
  scheme::CheckpointFormat format_ = scheme::CheckpointFormat::kAscendV1;
  bool is_quantized_ = false;  // what is not is held against AscendV1
  std::optional<hf::Config> config_;
  std::optional<hf::Description> description_;
  std::optional<io::TensorFiles> files_;
  std::vector<Problem> errors_;
  std::vector<Problem> warnings_;
  InspectReport report_;
};

}  // namespace

const char* name_of(Severity severity) noexcept {
  return severity == Severity::kError ? "error" : "warning";
}

bool InspectReport::loads() const noexcept {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& finding) { return finding.severity == Severity::kError; });
}

InspectReport inspect(const fs::path& directory, const InspectOptions& options) {
  return Inspection(directory, options).run();
}

}  // namespace laos::save
