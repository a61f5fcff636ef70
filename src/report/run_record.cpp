#include "report/run_record.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "io/file.h"
#include "report/page.h"

namespace laos::report {

using Json = nlohmann::ordered_json;

namespace {

// Every struct's fields once, for writing and for reading: `field(key, member)`.
template <class F>
void fields(F& field, Environment& e) {
  field("cpu", e.cpu);
  field("instruction_set", e.instruction_set);
  field("system", e.system);
  field("threads", e.threads);
  field("memory_bytes", e.memory_bytes);
}
template <class F>
void fields(F& field, Model& m) {
  field("directory", m.directory);
  field("type", m.type);
  field("dtype", m.dtype);
  field("num_hidden_layers", m.num_layers);
  field("hidden_size", m.hidden_size);
  field("intermediate_size", m.intermediate_size);
  field("vocab_size", m.vocab_size);
}
template <class F>
void fields(F& field, Recipe& r) {
  field("config_id", r.config_id);
  field("path", r.path);
  field("dataset", r.dataset);
  field("samples", r.num_samples);
  field("tokens", r.num_tokens);
  field("seed", r.seed);
  field("flops", r.flops);
  field("text", r.text);
}
template <class F>
void fields(F& field, Linear& l) {
  field("name", l.name);
  field("label", l.label);
  field("decided_by", l.decided_by);
  field("transform", l.transform);
  field("parameters", l.parameters);
  field("weight_bits", l.weight_bits);
  field("act_bits", l.act_bits);
  field("refit_share", l.refit_share);
  field("refit_damp", l.refit_damp);
  field("weight_error", l.weight_error);
  field("clipped", l.clipped);
  field("range", l.range);
}
template <class F>
void fields(F& field, autoround::LayerReport& r) {
  field("rounding_loss", r.rounding_loss);
  field("loss", r.loss);
  field("kept_iteration", r.kept_iteration);
  field("losses", r.losses);
}
template <class F>
void fields(F& field, Layer& l) {
  field("seconds", l.seconds);
  field("peak_rss_bytes", l.peak_rss_bytes);
  field("linears", l.linears);
  field("training", l.training);
  field("key_error", l.key_error);
  field("value_error", l.value_error);
  field("expert_tokens", l.expert_tokens);
  field("enough_expert_tokens", l.enough_expert_tokens);
}
template <class F>
void fields(F& field, Rank& r) {
  field("host", r.host);
  field("threads", r.threads);
  field("layers", r.layers);
  field("seconds", r.seconds);
  field("pass_seconds", r.pass_seconds);
  field("layer_seconds", r.layer_seconds);
  field("wait_seconds", r.wait_seconds);
  field("cpu_seconds", r.cpu_seconds);
  field("sent_bytes", r.sent_bytes);
  field("received_bytes", r.received_bytes);
  field("peak_rss_bytes", r.peak_rss_bytes);
}
template <class F>
void fields(F& field, Fit& f) {
  field("best_step", f.best_step);
  field("orthogonality", f.orthogonality);
  field("steps", f.steps);
  field("losses", f.losses);
}
template <class F>
void fields(F& field, TimedPart& p) {
  field("name", p.name);
  field("seconds", p.seconds);
  field("flops", p.flops);
  field("dtype", p.dtype);
}
template <class F>
void fields(F& field, Timings& t) {
  field("total", t.total);
  field("fit", t.fit);
  field("layers", t.layers);
  field("save", t.save);
  field("health", t.health);
  field("parts", t.parts);
}
template <class F>
void fields(F& field, model::Outliers& o) {
  field("max_to_rms", o.max_to_rms);
  field("kurtosis", o.kurtosis);
}
template <class F>
void fields(F& field, eval::LayerHealth& l) {
  field("labels", l.labels);
  field("error", l.error);
  field("drift", l.drift);
  field("rerouted", l.rerouted);
  field("before", l.before);
  field("after", l.after);
}
template <class F>
void fields(F& field, eval::Continuation& c) {
  field("prompt", c.prompt);
  field("baseline", c.baseline);
  field("model", c.model);
}
template <class F>
void fields(F& field, Health& h) {
  eval::Health& f = h.figures;
  if constexpr (F::kWrites) {
    // For those who read the file; laos itself judges by the figures.
    eval::Judgement judgement = eval::judge(f);
    std::string verdict = eval::name_of(judgement.verdict);
    field("verdict", verdict);
    field("reasons", judgement.reasons);
  }
  field("source", h.source);
  field("tokens_sha256", h.tokens_sha256);
  field("calibrated", h.calibrated);
  field("tokens", f.num_tokens);
  field("not_finite", f.not_finite);
  field("embedding_error", f.embedding_error);
  field("kl_mean", f.kl_mean);
  field("kl_stderr", f.kl_stderr);
  field("kl_max", f.kl_max);
  field("top1_agreement", f.top1_agreement);
  field("perplexity", f.perplexity);
  field("baseline_perplexity", f.baseline_perplexity);
  field("continuations", f.continuations);
  field("layers", f.layers);
}
template <class F>
void fields(F& field, RunRecord& r) {
  field("format", r.format);
  field("laos", r.laos_version);
  field("libraries", r.libraries);
  field("environment", r.environment);
  field("model", r.model);
  field("recipe", r.recipe);
  field("warnings", r.warnings);
  field("timings", r.timings);
  field("peak_rss_bytes", r.peak_rss_bytes);
  field("checkpoint_bytes", r.checkpoint_bytes);
  field("health", r.health);
  field("ranks", r.ranks);
  field("fits", r.fits);
  field("layers", r.layers);
}

template <class T>
struct IsList : std::false_type {};
template <class T>
struct IsList<std::vector<T>> : std::true_type {};
template <class T, size_t n>
struct IsList<std::array<T, n>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

struct Writer {
  static constexpr bool kWrites = true;
  Json json = Json::object();

  template <class T>
  void operator()(const char* key, T& value) {
    json[key] = of(value);
  }
  template <class T>
  static Json of(T& value) {
    if constexpr (std::is_floating_point_v<T>) {
      if (!std::isfinite(value)) return nullptr;
      char text[32];
      std::snprintf(text, sizeof text, "%.7g", value);
      return std::strtod(text, nullptr);
    } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
      return value;
    } else if constexpr (IsList<T>::value) {
      Json list = Json::array();
      for (auto& item : value) list.push_back(of(item));
      return list;
    } else if constexpr (IsOptional<T>::value) {
      return value ? of(*value) : Json(nullptr);
    } else {
      Writer inner;
      fields(inner, value);
      return std::move(inner.json);
    }
  }
};

struct Reader {
  static constexpr bool kWrites = false;
  const Json& json;
  const std::string& path;  // of `json` in the document, for messages

  template <class T>
  void operator()(const char* key, T& value) {
    const auto found = json.find(key);
    if (found != json.end()) read(*found, value, path + "." + key);
  }
  template <class T>
  static void read(const Json& json, T& value, const std::string& path) {
    const auto require = [&](bool ok, const char* what) {
      if (!ok)
        throw Error(ErrorCode::kFormat,
                    {.what = "not " + std::string(what), .where = path, .fix = ""});
    };
    if constexpr (std::is_same_v<T, bool>) {
      require(json.is_boolean(), "true or false");
      value = json.get<bool>();
    } else if constexpr (std::is_floating_point_v<T>) {
      require(json.is_number() || json.is_null(), "a number or null");
      value = json.is_null() ? std::numeric_limits<T>::quiet_NaN() : json.get<T>();
    } else if constexpr (std::is_arithmetic_v<T>) {
      require(json.is_number_integer(), "a whole number");
      value = json.get<T>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      require(json.is_string(), "text");
      value = json.get<std::string>();
    } else if constexpr (IsList<T>::value) {
      require(json.is_array(), "a list");
      if constexpr (requires { value.resize(size_t{0}); })
        value.resize(json.size());
      else
        require(json.size() == value.size(), "a list of that length");
      for (size_t i = 0; i < json.size(); ++i)
        read(json[i], value[i], path + "[" + std::to_string(i) + "]");
    } else if constexpr (IsOptional<T>::value) {
      value.reset();
      if (json.is_null()) return;
      typename T::value_type inner{};
      read(json, inner, path);
      value = std::move(inner);
    } else {
      require(json.is_object(), "an object");
      Reader inner{json, path};
      fields(inner, value);
    }
  }
};

template <class T>
std::string text_of(const T& value) {
  T copy = value;  // `fields` hands out members to change
  return Writer::of(copy).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

template <class T>
T value_of(const std::string& text, const std::string& name) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded())
    throw Error(ErrorCode::kFormat, {.what = "not JSON", .where = name, .fix = ""});
  T value;
  Reader::read(json, value, name);
  return value;
}

constexpr int64_t kMaxRunBytes = int64_t{64} << 20;

}  // namespace

std::string verdict_text(const Health& health) {
  const eval::Verdict verdict = eval::judge(health.figures).verdict;
  return std::string(eval::name_of(verdict)) + (verdict == eval::Verdict::kGood && health.calibrated
                                                    ? ", on text that it was calibrated on"
                                                    : "");
}

std::string to_json(const RunRecord& record) { return text_of(record); }
std::string to_json(const Layer& layer) { return text_of(layer); }
std::string to_json(const Rank& rank) { return text_of(rank); }
std::string to_json(const Health& health) { return text_of(health); }

RunRecord run_record_from_json(const std::string& text, const std::string& name) {
  auto record = value_of<RunRecord>(text, name);
  if (record.format != RunRecord{}.format)
    throw Error(ErrorCode::kFormat,
                {.what = "format " + std::to_string(record.format) + " is not one that laos reads",
                 .where = name,
                 .fix = "use the laos that wrote it"});
  return record;
}
Layer layer_from_json(const std::string& text, const std::string& name) {
  return value_of<Layer>(text, name);
}
Rank rank_from_json(const std::string& text, const std::string& name) {
  return value_of<Rank>(text, name);
}

namespace {

void write_record(const std::filesystem::path& directory, const char* file, const char* page,
                  const RunRecord& record, const std::vector<RunRecord>& others) {
  const std::string json = to_json(record);
  io::write_text_atomically(directory / file, json);
  // The page shows what is written, so that `laos report` makes the same one.
  io::write_text_atomically(directory / page, to_html(run_record_from_json(json, file), others));
}

}  // namespace

void write_run(const std::filesystem::path& directory, const RunRecord& record,
               const std::vector<RunRecord>& others) {
  write_record(directory, kRunFile, kPageFile, record, others);
}

void write_check(const std::filesystem::path& directory, const Health& health) {
  RunRecord record;
  if (std::filesystem::exists(directory / kRunFile)) record = read_run(directory);
  record.health = health;
  write_record(directory, kCheckFile, kCheckPageFile, record, {});
}

RunRecord read_run(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / kRunFile;
  return run_record_from_json(io::read_text(file, kMaxRunBytes), file.string());
}

}  // namespace laos::report
