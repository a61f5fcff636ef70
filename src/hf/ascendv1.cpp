#include "hf/ascendv1.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <set>
#include <system_error>
#include <tuple>

#include "hf/json_file.h"
#include "io/file.h"
#include "io/own_file.h"

namespace laos::hf {
namespace {

namespace fs = std::filesystem;

// The largest models have some 200,000 tensors.
constexpr int64_t kMaxDescriptionBytes = int64_t{256} << 20;
constexpr int64_t kMaxDescriptionValues = 4'000'000;

// Keys of the description that are not tensors.
constexpr std::array<std::string_view, 8> kFields = {
    "version",  "model_quant_type", "metadata",      "group_size",
    "optional", kCacheTypeField,    "kv_quant_type", "fa_quant_type"};

bool is_float(DType dtype) noexcept {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

// "a.b.weight" -> {"a.b", "weight"}; a name without a dot is all suffix.
std::pair<std::string, std::string> split_name(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {"", name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

// The engine computes rotary tables itself and skips these.
bool is_rotary_buffer(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_emb.cos_cached") ||
         name.ends_with("rotary_emb.sin_cached");
}

// "o_proj" of "model.layers.3.self_attn.o_proj".
bool is_named(std::string_view module, Linear linear) {
  return module.ends_with("." + std::string(short_name(linear)));
}

bool is_online_rotation(const std::string& name) {
  const auto [module, suffix] = split_name(name);
  return (is_named(module, Linear::kOProj) && suffix == "heads_rotation") ||
         (is_named(module, Linear::kDownProj) &&
          (suffix == "kronecker_rotation_m" || suffix == "kronecker_rotation_n"));
}

// The linear that the scales or offsets of a cache stand beside; nullopt when `name` is neither.
std::optional<Linear> cached_linear(const std::string& name) {
  const auto [module, suffix] = split_name(name);
  if (suffix != kCacheScaleSuffix && suffix != kCacheOffsetSuffix) return std::nullopt;
  for (const Linear l : kCachedLinears)
    if (is_named(module, l)) return l;
  return std::nullopt;
}

class StructureCheck {
 public:
  StructureCheck(const Config* config, const Description& description,
                 const std::map<std::string, TensorView>& tensors, scheme::Engine engine)
      : config_(config), description_(description), tensors_(tensors), engine_(engine) {}

  StructureProblems run() {
    check_described();
    for (const auto& [name, label] : description_.labels) check_label(name, label);
    if (config_ != nullptr) check_modules();
    check_files();
    return std::move(problems_);
  }

 private:
  void add(std::string what, const std::string& where, std::string fix = "") {
    problems_.broken.push_back({std::move(what), where, std::move(fix)});
  }
  void add_unloadable(std::string what, const std::string& where, std::string fix) {
    problems_.unloadable.push_back({std::move(what), where, std::move(fix)});
  }

  const TensorView* find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  void check_described() {
    for (const auto& [name, label] : description_.labels)
      if (find(name) == nullptr)
        add("described as " + label + ", but no file holds this tensor", name,
            "a shard is missing: copy all of the checkpoint");
  }

  void check_label(const std::string& name, const std::string& label) {
    const auto [module, suffix] = split_name(name);
    if (cached_linear(name)) return check_cache(name, label);
    const scheme::Scheme* scheme = scheme::find(label);
    if (scheme == nullptr || !scheme->in_ascendv1()) {
      add("label " + label + " is none that engines are known to load for this kind of model", name,
          "labels are " +
              scheme::list_labels([](const scheme::Scheme& row) { return row.in_ascendv1(); }));
      return;
    }
    if (suffix == "weight") {
      if (scheme->is_float())
        check_float(name);
      else
        check_linear(module, *scheme);
      return;
    }
    check_belongs(name, module, suffix);
  }

  // Scales and offsets of the keys and of the values of a layer: all four or none.
  void check_cache(const std::string& name, const std::string& label) {
    if (label != kCacheLabel)
      add("labelled " + label + "; scales of a cache are " + kCacheLabel, name, "quantize again");
    if (description_.kv_cache_type != kCacheLabel)
      add(std::string(kCacheTypeField) + " is not \"" + kCacheLabel +
              "\", so that engines take no scales of a cache",
          kDescriptionFile, "quantize again");
    const std::string module = split_name(name).first;
    const std::string parent =
        module.substr(0, module.size() - short_name(*cached_linear(name)).size());
    for (const Linear l : kCachedLinears)
      for (const char* suffix : {kCacheScaleSuffix, kCacheOffsetSuffix}) {
        const std::string partner = parent + std::string(short_name(l)) + "." + suffix;
        if (description_.find(partner) == nullptr && reported_unknown_.insert(partner).second)
          add("missing; a cache of int8 needs it", partner, "quantize again");
      }
    if (const TensorView* tensor = find(name)) {
      if (tensor->dtype != DType::kF32)
        add("scales and offsets of a cache are F32, this is " +
                std::string(to_string(tensor->dtype)),
            name);
      const int64_t channels = config_ == nullptr ? 0 : out_features(*config_, Linear::kKProj);
      if (config_ != nullptr && num_elements(tensor->shape) != channels)
        add("shape is " + to_string(tensor->shape) + ", config.json implies " +
                to_string(Shape{channels}),
            name, "config.json and weights are of different models");
    }
    const scheme::EngineRow& engine = scheme::row_of(engine_);
    if (!engine.loads_cache_scales)
      add_unloadable(std::string(engine.title) + " loads no scales of a cache", name,
                     "quantize without kv_cache");
    else if (config_ != nullptr && !cache_refusal(*config_).empty())
      add_unloadable(cache_refusal(*config_), name, "quantize without kv_cache");
  }

  void check_float(const std::string& name) {
    const TensorView* tensor = find(name);
    if (tensor == nullptr) return;  // reported by check_described
    if (!is_float(tensor->dtype))
      add("labelled FLOAT, but its data is " + std::string(to_string(tensor->dtype)), name,
          "a FLOAT tensor is F32, BF16 or F16");
    if (name.ends_with(".weight")) check_loads(*scheme::find(scheme::kFloatLabel), 1, *tensor);
  }

  // Every part of a quantized linear: there, labelled as its weight, of the right dtype and shape.
  void check_linear(const std::string& module, const scheme::Scheme& scheme) {
    const std::string label(scheme.label);
    const TensorView* weight = find(module + ".weight");
    if (weight == nullptr) return;  // reported by check_described
    if (weight->shape.size() != 2) {
      add("the weight of a " + label + " linear has two dimensions, this one has shape " +
              to_string(weight->shape),
          weight->name);
      return;
    }
    const scheme::LinearSizes sizes = sizes_of(module, *weight, scheme);
    if (scheme.transforms) {
      const std::string refusal = scheme::pair_sizes(sizes.in_features / sizes.num_blocks).refusal;
      if (!refusal.empty())
        add_unloadable("the operator of " + label + " takes no such matrices: " + refusal,
                       weight->name, "keep this linear W8A8 or W4A4 without a transform");
    }
    check_loads(scheme, sizes.num_groups, *weight);
    for (const scheme::LinearPart& part : scheme.parts) {
      const std::string name = module + "." + std::string(part.suffix);
      const std::string* part_label = description_.find(name);
      const TensorView* tensor = find(name);
      if (part_label == nullptr && tensor == nullptr) {
        add("missing; a " + label + " linear needs it", name, "quantize again");
        continue;
      }
      if (part_label != nullptr && *part_label != label)
        add("labelled " + *part_label + ", its weight " + label, name,
            "all tensors of a linear share a label");
      if (tensor == nullptr) continue;  // reported by check_described
      check_part(label, part, *tensor, part.shape(sizes));
    }
  }

  void check_loads(const scheme::Scheme& scheme, int64_t num_groups, const TensorView& weight) {
    const bool of_experts = names_routed_expert(split_name(weight.name).first);
    if (std::string refusal = scheme.refused_by(engine_, num_groups, of_experts); !refusal.empty())
      add_unloadable(std::move(refusal), weight.name, "quantize with a scheme that it loads");
  }

  void check_part(const std::string& label, const scheme::LinearPart& part,
                  const TensorView& tensor, const Shape& shape) {
    if (tensor.dtype != part.dtype && tensor.dtype != part.other_dtype)
      add(std::string(part.suffix) + " of a " + label + " linear is " +
              std::string(to_string(part.dtype)) + ", this one is " +
              std::string(to_string(tensor.dtype)),
          tensor.name);
    if (tensor.shape != shape)
      add("shape is " + to_string(tensor.shape) + ", must be " + to_string(shape), tensor.name);
  }

  // Of a linear with this weight. Groups are what its scales say, where that is possible.
  scheme::LinearSizes sizes_of(const std::string& module, const TensorView& weight,
                               const scheme::Scheme& scheme) const {
    scheme::LinearSizes sizes{.out_features = weight.shape[0], .in_features = weight.shape[1]};
    if (scheme.packs_rows()) sizes.out_features *= 2;
    sizes.num_slices = num_slices(module);
    if (scheme.transforms) sizes.num_blocks = num_blocks(module, sizes.in_features);
    const TensorView* scale = find(module + ".weight_scale");
    if (scale == nullptr || scale->shape.size() != 2 || scale->shape[1] <= 1) return sizes;
    const int64_t num_groups = scale->shape[1];
    // Where it does not divide, the shape is reported.
    if (sizes.in_features % num_groups == 0) sizes.num_groups = num_groups;
    return sizes;
  }

  // Blocks of a linear's inputs that share its matrices. One where they are split over no ranks, or
  // where the matrices are not what the shapes to come report.
  int64_t num_blocks(const std::string& module, int64_t in_features) const {
    const TensorView *left = find(module + ".left_trans"), *right = find(module + ".right_trans");
    if (num_slices(module) == 1 || left == nullptr || right == nullptr || left->shape.empty() ||
        right->shape.empty())
      return 1;
    constexpr int64_t kMost = 1 << 15;
    const int64_t l = left->shape[0], r = right->shape[0];
    const bool divides = l > 0 && r > 0 && l < kMost && r < kMost && in_features % (l * r) == 0;
    return divides ? std::max<int64_t>(in_features / (l * r), 1) : 1;
  }

  // A tensor that is not a weight is a part of the quantized linear it names, or a float bias.
  void check_belongs(const std::string& name, const std::string& module,
                     const std::string& suffix) {
    if (is_online_rotation(name)) return;  // see check_online_rotation
    const std::string* label = description_.find(module + ".weight");
    if (label != nullptr) {
      if (const scheme::Scheme* scheme = scheme::find(*label))
        for (const scheme::LinearPart& part : scheme->parts)
          if (part.suffix == suffix) return;
      if (suffix == "bias") return check_float(name);
    }
    add_unknown(name, label == nullptr ? "" : *label);
  }

  void add_unknown(const std::string& name, const std::string& label) {
    if (is_rotary_buffer(name) || !reported_unknown_.insert(name).second) return;
    add(label.empty() ? "no parameter of the model takes this tensor"
                      : "no parameter of a " + label + " linear takes this tensor",
        name, "remove it, or quantize again");
  }

  // What the config implies: every weight there, FLOAT where it must be, of the right shape.
  void check_modules() {
    const std::vector<WeightModule> modules = weight_modules(*config_);
    for (const WeightModule& module : modules) {
      const std::string name = module.weight_name();
      names_.insert(module.name);
      if (module.has_bias) check_bias(module);
      const std::string* label = description_.find(name);
      const TensorView* tensor = find(name);
      if (label == nullptr && tensor == nullptr) {
        const bool is_tied_head =
            module.kind == WeightModule::Kind::kHead && config_->tie_word_embeddings;
        if (!is_tied_head)
          add("missing from the description and the files; the config implies it", name,
              "quantize again");
        continue;
      }
      if (label != nullptr && *label != scheme::kFloatLabel &&
          module.kind != WeightModule::Kind::kLinear)
        add("labelled " + *label + "; only the linears of decoder layers can be quantized", name);
      if (tensor == nullptr) continue;
      Shape shape = module.shape;
      const scheme::Scheme* scheme = label == nullptr ? nullptr : scheme::find(*label);
      if (scheme != nullptr && !scheme->parts.empty() && shape.size() == 2)
        shape = scheme->parts.front().shape({.out_features = shape[0], .in_features = shape[1]});
      if (tensor->shape != shape)
        add("shape is " + to_string(tensor->shape) + ", config.json implies " + to_string(shape),
            name, "config.json and weights are of different models");
    }
  }

  void check_bias(const WeightModule& module) {
    const std::string name = module.bias_name();
    biases_.insert(name);
    const TensorView* bias = find(name);
    if (bias == nullptr && description_.find(name) == nullptr)
      add("missing from the description and the files; the config implies it", name,
          "quantize again");
    else if (bias != nullptr && bias->shape != Shape{module.shape[0]})
      add("shape is " + to_string(bias->shape) + ", config.json implies " +
              to_string(Shape{module.shape[0]}),
          name, "config.json and weights are of different models");
  }

  void check_files() {
    for (const auto& [name, tensor] : tensors_) {
      if (is_rotary_buffer(name)) continue;
      if (is_online_rotation(name)) {
        check_online_rotation(tensor);
        continue;
      }
      if (config_ != nullptr && (!names_.contains(split_name(name).first) ||
                                 (name.ends_with(".bias") && !biases_.contains(name))))
        add_unknown(name, "");
      else if (description_.find(name) == nullptr)
        add("in the files, but not in the description", name, "quantize again");
    }
  }

  // The matrices of online rotations, which no description names.
  void check_online_rotation(const TensorView& tensor) {
    const std::string& name = tensor.name;
    const bool is_square = tensor.dtype == DType::kF32 && tensor.shape.size() == 2 &&
                           tensor.shape[0] == tensor.shape[1];
    bool fits = is_square;
    if (is_square && config_ != nullptr) {
      const auto [module, suffix] = split_name(name);
      if (suffix == "heads_rotation") {
        fits = tensor.shape[0] == config_->num_attention_heads;
      } else {
        const TensorView* m = find(module + ".kronecker_rotation_m");
        const TensorView* n = find(module + ".kronecker_rotation_n");
        fits = m != nullptr && n != nullptr && m->shape.size() == 2 && n->shape.size() == 2 &&
               m->shape[0] > 0 && config_->intermediate_size % m->shape[0] == 0 &&
               config_->intermediate_size / m->shape[0] == n->shape[0];
      }
    }
    if (!fits)
      add("not the F32 matrix of an online rotation of this model: " + to_string(tensor.shape),
          name, "quantize again");
    else
      add_unloadable("a matrix of an online rotation, which the engine does not load", name,
                     "quantize with online: false");
  }

  const Config* config_;
  const Description& description_;
  const std::map<std::string, TensorView>& tensors_;
  const scheme::Engine engine_;
  StructureProblems problems_;
  std::set<std::string> names_, biases_;  // modules and biases that the config implies
  std::set<std::string> reported_unknown_;
};

// `where` with every number between dots replaced by *.
std::string without_layer(const std::string& where) {
  std::string text;
  for (size_t i = 0; i < where.size();) {
    size_t end = where.find('.', i);
    if (end == std::string::npos) end = where.size();
    const bool is_number = end > i && std::all_of(where.begin() + static_cast<std::ptrdiff_t>(i),
                                                  where.begin() + static_cast<std::ptrdiff_t>(end),
                                                  [](unsigned char c) { return std::isdigit(c); });
    text += is_number ? "*" : where.substr(i, end - i);
    if (end < where.size()) text += '.';
    i = end + 1;
  }
  return text;
}

}  // namespace

std::string cache_refusal(const Config& config) {
  constexpr int64_t kHeadMultiple = 32;
  if (config.head_dim % kHeadMultiple == 0) return "";
  return "head_dim " + std::to_string(config.head_dim) + " is no multiple of " +
         std::to_string(kHeadMultiple) + ", which the engine's operator of an int8 cache needs";
}

int64_t num_slices(std::string_view linear_name) noexcept {
  constexpr int64_t kRowParallelSlices = 16;
  for (const LinearGroup group : kAllLinearGroups)
    for (const Linear l : linears_of(group))
      if (is_named(linear_name, l)) return reads_residual(group) ? 1 : kRowParallelSlices;
  return 1;
}

const std::string* Description::find(const std::string& tensor) const {
  const auto found = label_of.find(tensor);
  return found == label_of.end() ? nullptr : &found->second;
}

Description read_description(const fs::path& directory) {
  const fs::path path = directory / kDescriptionFile;
  io::require_own_file(path);
  Problems problems;
  const auto refuse = [&](std::string what, const std::string& key) {
    problems.add({std::move(what), path.string() + ", key " + key, "quantize again"});
  };

  std::vector<std::string> keys;  // of the top object, in file order
  std::set<std::string> seen;
  const auto json =
      parse_json<nlohmann::json>(io::read_text(path, kMaxDescriptionBytes), path,
                                 kMaxDescriptionValues, [&](int depth, const std::string& key) {
                                   if (depth != 1) return;
                                   if (seen.insert(key).second)
                                     keys.push_back(key);
                                   else
                                     refuse("the key stands there twice", key);
                                 });
  if (!json.is_object())
    throw Error(ErrorCode::kFormat, {.what = "the description is not a JSON object",
                                     .where = path.string(),
                                     .fix = "quantize again"});

  Description description;
  for (const std::string& key : keys) {
    const nlohmann::json& value = json.at(key);
    if (key == "model_quant_type" && value.is_string())
      description.model_quant_type = value.get<std::string>();
    if (key == kCacheTypeField && value.is_string())
      description.kv_cache_type = value.get<std::string>();
    if (key == "group_size" && value.is_number_integer())
      description.group_size = value.get<int64_t>();
    if (std::find(kFields.begin(), kFields.end(), key) != kFields.end()) continue;
    if (!value.is_string()) {
      refuse("the label is not a string", key);
      continue;
    }
    description.labels.emplace_back(key, value.get<std::string>());
  }
  problems.throw_if_any(ErrorCode::kFormat);
  description.label_of = {description.labels.begin(), description.labels.end()};
  return description;
}

std::vector<fs::path> top_level_safetensors(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error))
    if (entries->path().extension() == ".safetensors") files.push_back(entries->path());
  if (error)
    throw Error(ErrorCode::kIo, {.what = "cannot list the directory: " + error.message(),
                                 .where = directory.string(),
                                 .fix = "check the path and its permissions"});
  std::sort(files.begin(), files.end());
  return files;
}

io::TensorFiles open_top_level_safetensors(const fs::path& directory) {
  const std::vector<fs::path> paths = top_level_safetensors(directory);
  if (paths.empty())
    throw Error(ErrorCode::kIo, {.what = "the directory holds no *.safetensors file",
                                 .where = directory.string(),
                                 .fix = "copy all of the checkpoint"});
  return io::TensorFiles::open_files(paths);
}

StructureProblems check_structure(const Config* config, const Description& description,
                                  const std::map<std::string, TensorView>& tensors,
                                  scheme::Engine engine) {
  return StructureCheck(config, description, tensors, engine).run();
}

std::vector<ProblemGroup> group_over_layers(const std::vector<Problem>& problems) {
  constexpr size_t kMaxGroups = 200;  // a damaged or hostile file has no end of them
  std::vector<ProblemGroup> groups;
  std::map<std::tuple<std::string, std::string, std::string>, size_t> index;
  int64_t more = 0;
  for (const Problem& problem : problems) {
    const auto key = std::make_tuple(problem.what, without_layer(problem.where), problem.fix);
    if (const auto found = index.find(key); found != index.end()) {
      ++groups[found->second].count;
    } else if (groups.size() < kMaxGroups) {
      index.emplace(key, groups.size());
      groups.push_back({problem, 1});
    } else {
      ++more;
    }
  }
  if (more > 0) groups.push_back({{"other problems, not listed", "", ""}, more});
  return groups;
}

bool AscendV1Checkpoint::is_ascendv1(const fs::path& directory) {
  std::error_code error;
  return fs::exists(directory / kDescriptionFile, error);
}

AscendV1Checkpoint AscendV1Checkpoint::open(const fs::path& directory) {
  Config config = read_config(directory);
  Description description = read_description(directory);
  io::TensorFiles files = open_top_level_safetensors(directory);

  Problems problems;
  for (const ProblemGroup& group :
       group_over_layers(check_structure(&config, description, files.tensors()).broken)) {
    Problem problem = group.first;
    if (group.count > 1)
      problem.what += " (" + std::to_string(group.count) + " tensors, the first:)";
    problems.add(std::move(problem));
  }
  problems.throw_if_any(ErrorCode::kFormat);
  return {directory, std::move(config), std::move(description), std::move(files)};
}

AscendV1Checkpoint::AscendV1Checkpoint(fs::path directory, Config config, Description description,
                                       io::TensorFiles files)
    : QuantizedCheckpoint(std::move(config), std::move(files)),
      directory_(std::move(directory)),
      description_(std::move(description)) {}

const std::string& AscendV1Checkpoint::label(const std::string& module) const {
  const std::string* label = description_.find(owner(module) + ".weight");
  LAOS_ASSERT(label != nullptr);
  return *label;
}

const TensorView& AscendV1Checkpoint::weight(const std::string& module) const {
  return files_.at(owner(module) + ".weight");
}

MatView<const int8_t> AscendV1Checkpoint::stored_codes(const std::string& module) const {
  if (scheme::find(label(module))->packs_rows()) return {};
  const TensorView& view = weight(module);
  return {reinterpret_cast<const int8_t*>(view.data), view.shape[0], view.shape[1], view.shape[1]};
}

Mat<int8_t> AscendV1Checkpoint::codes(const std::string& module) const {
  const TensorView& view = weight(module);
  LAOS_ASSERT(view.dtype == DType::kI8 && view.shape.size() == 2);
  const auto* stored = reinterpret_cast<const int8_t*>(view.data);
  const int64_t rows = view.shape[0], cols = view.shape[1];
  if (!scheme::find(label(module))->packs_rows()) {
    Mat<int8_t> codes(rows, cols);
    std::copy_n(stored, codes.size(), codes.data());
    return codes;
  }
  Mat<int8_t> codes(2 * rows, cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const int8_t byte = stored[i * cols + j];
      codes(2 * i, j) = static_cast<int8_t>(static_cast<int8_t>(byte << 4) >> 4);
      codes(2 * i + 1, j) = static_cast<int8_t>(byte >> 4);
    }
  return codes;
}

std::vector<float> AscendV1Checkpoint::values(const std::string& module,
                                              const std::string& suffix) const {
  const TensorView* view = files_.find(module + "." + suffix);
  if (view == nullptr) return {};
  std::vector<float> values(static_cast<size_t>(num_elements(view->shape)));
  if (view->dtype == DType::kI64) {
    for (size_t i = 0; i < values.size(); ++i)
      std::memcpy(&values[i], view->data + i * sizeof(int64_t), sizeof(float));
  } else {
    to_f32(*view, values.data());
  }
  return values;
}

std::vector<float> AscendV1Checkpoint::weight_scale(const std::string& module) const {
  return values(module, "weight_scale");
}

StaticInput AscendV1Checkpoint::static_input(const std::string& module) const {
  return {.scale = values(module, "input_scale").front(),
          .offset = values(module, "input_offset").front(),
          .deq_scale = values(module, "deq_scale"),
          .quant_bias = quant_bias(module),
          .holds_bias = true};
}

std::optional<InputPair> AscendV1Checkpoint::input_pair(const std::string& module) const {
  if (!scheme::find(label(module))->transforms) return std::nullopt;
  return InputPair{.left = to_f32(files_.at(module + ".left_trans")),
                   .right = to_f32(files_.at(module + ".right_trans")),
                   .clip = values(module, "clip_ratio").front()};
}

std::vector<float> AscendV1Checkpoint::online_rotation(const std::string& module,
                                                       const std::string& suffix) const {
  return values(module, suffix);
}

std::optional<CacheScales> AscendV1Checkpoint::cache_scales(int64_t layer_idx) const {
  CacheScales scales{
      .keys = values(name_of(config_, layer_idx, Linear::kKProj), kCacheScaleSuffix),
      .values = values(name_of(config_, layer_idx, Linear::kVProj), kCacheScaleSuffix)};
  if (scales.keys.empty()) return std::nullopt;
  return scales;
}

std::vector<int32_t> AscendV1Checkpoint::quant_bias(const std::string& module) const {
  const TensorView& view = files_.at(module + ".quant_bias");
  LAOS_ASSERT(view.dtype == DType::kI32);
  std::vector<int32_t> values(static_cast<size_t>(num_elements(view.shape)));
  std::memcpy(values.data(), view.data, values.size() * sizeof(int32_t));
  return values;
}

}  // namespace laos::hf
