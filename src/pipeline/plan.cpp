#include "pipeline/plan.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <type_traits>
#include <variant>

#include "core/memory.h"
#include "core/threads.h"
#include "core/units.h"
#include "gptq/quantize_layer.h"
#include "hf/dataset.h"
#include "hf/model_tensors.h"
#include "hf/quantized_checkpoint.h"
#include "hf/tokenizer.h"
#include "pipeline/division.h"
#include "pipeline/identity.h"
#include "recipe/rewrite.h"
#include "rotation/fit.h"
#include "rotation/rotation.h"
#include "save/format.h"

namespace laos::pipeline {

using model::Linear;

namespace {

// Runs steps that may throw Error and keeps what they say, so that a user sees all problems at
// once. The code of the first stays.
class Collector {
 public:
  template <class F>
  bool run(F&& step) {
    try {
      step();
      return true;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInternal) throw;
      add(error.code(), error.problems());
      return false;
    }
  }
  void add(ErrorCode code, const std::vector<Problem>& problems) {
    if (problems_.empty()) code_ = code;
    for (const Problem& problem : problems) {
      // Two stages that ask for one missing dataset have one problem.
      const bool known = std::any_of(problems_.begin(), problems_.end(), [&](const Problem& other) {
        return other.what == problem.what && other.where == problem.where;
      });
      if (!known) problems_.push_back(problem);
    }
  }
  bool empty() const noexcept { return problems_.empty(); }
  const std::vector<Problem>& list() const noexcept { return problems_; }
  void throw_if_any() const {
    if (!problems_.empty()) throw Error(code_, problems_);
  }

 private:
  ErrorCode code_ = ErrorCode::kInternal;
  std::vector<Problem> problems_;
};

// A dataset, and what was taken out of it for the health check.
struct Dataset {
  std::filesystem::path path;
  std::shared_ptr<const Samples> samples, held_back;
  bool is_default = false;  // the set that comes with laos
};

// Of every stretch of samples the one in its middle is held back.
Dataset hold_back(std::filesystem::path path, Samples samples, std::optional<int64_t> wanted) {
  const int64_t total = std::ssize(samples);
  const int64_t count = wanted.value_or(std::min(total / kHoldBackOneIn, kMostHeldBack));
  if (count > 0 && count >= total)
    throw Error(ErrorCode::kData, {.what = "none of the dataset's " + std::to_string(total) +
                                           " samples is left to calibrate on when " +
                                           std::to_string(count) + " are held back",
                                   .where = path.string(),
                                   .fix = "hold back fewer (--hold-back), or use more text"});
  Samples kept, held;
  for (int64_t i = 0; i < total; ++i) {
    const int64_t stretch = std::ssize(held);
    const bool is_held = stretch < count && i == (2 * stretch + 1) * total / (2 * count);
    (is_held ? held : kept).push_back(std::move(samples[static_cast<size_t>(i)]));
  }
  return {std::move(path), std::make_shared<Samples>(std::move(kept)),
          std::make_shared<Samples>(std::move(held)), false};
}

// Finds, reads and tokenizes datasets, each file once.
class Datasets {
 public:
  Datasets(const QuantOptions& options, const recipe::Recipe& recipe,
           const hf::Tokenizer& tokenizer, std::vector<std::string>& warnings)
      : options_(options),
        recipe_directory_(recipe.path.parent_path()),
        tokenizer_(tokenizer),
        warnings_(warnings) {}

  const Dataset& load(const recipe::Stage& stage) {
    const std::string name = options_.dataset.value_or(stage.dataset);
    if (name.empty()) return load(hf::default_dataset(options_.calib_directories), true);
    const std::string where = options_.dataset ? "--dataset" : stage.dataset_location.text();
    std::filesystem::path file;
    try {
      // What the flag names is the user's own path; it is not looked for beside the recipe.
      file = hf::find_dataset(name, options_.dataset ? std::filesystem::path() : recipe_directory_,
                              options_.calib_directories);
    } catch (const Error& error) {
      Problem problem = error.problems().front();
      problem.where = where + "; " + problem.where;
      problem.fix = "give its path with --dataset, or put it at one of these places";
      throw Error(error.code(), std::move(problem));
    }
    return load(file, false);
  }

 private:
  const Dataset& load(const std::filesystem::path& file, bool is_default) {
    Dataset& dataset = loaded_[file];
    if (dataset.samples) return dataset;
    hf::Dataset read = hf::load_dataset(file, options_.model_path,
                                        {.seq_len = options_.calib_seq_len,
                                         .max_samples = options_.nsamples,
                                         .seed = options_.seed,
                                         .chat_format = options_.chat_format,
                                         .own_chat_format_only = is_default},
                                        &tokenizer_);
    warnings_.insert(warnings_.end(), read.warnings.begin(), read.warnings.end());
    dataset = hold_back(file, std::move(read.samples), options_.hold_back);
    dataset.is_default = is_default;
    return dataset;
  }

  const QuantOptions& options_;
  const std::filesystem::path recipe_directory_;
  const hf::Tokenizer& tokenizer_;
  std::vector<std::string>& warnings_;
  std::map<std::filesystem::path, Dataset> loaded_;
};

// Ids that the embedding has no row for, and samples longer than the model's positions.
void check_samples(const Samples& samples, const hf::Config& config, Plan& plan) {
  int64_t longest = 0;
  for (const std::vector<int32_t>& sample : samples) {
    longest = std::max(longest, std::ssize(sample));
    for (const int32_t id : sample)
      if (id >= config.vocab_size)
        throw Error(
            ErrorCode::kData,
            {.what = "the tokenizer gives id " + std::to_string(id) +
                     ", but config.json says vocab_size " + std::to_string(config.vocab_size),
             .where = (plan.options.model_path / "tokenizer.json").string(),
             .fix = "use the tokenizer that belongs to the checkpoint"});
  }
  model::require_within_window(config, longest);
  if (config.sliding_window > 0)
    plan.warnings.push_back("the model's sliding window of " +
                            std::to_string(config.sliding_window) +
                            " tokens is longer than every sample, so that it changes nothing here");
  if (config.max_position_embeddings > 0 && longest > config.max_position_embeddings)
    plan.warnings.push_back("the longest calibration sample has " + std::to_string(longest) +
                            " tokens, more than max_position_embeddings " +
                            std::to_string(config.max_position_embeddings));
}

// A solve reads the products of each two inputs of a linear, summed over the calibration tokens. Of
// few tokens they say more about these tokens than about the model.
void warn_of_few_tokens(Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const int64_t num_tokens = lengths_of(*plan.samples).num_tokens();
  int64_t width = 0, width_of_experts = 0;
  std::string widest;
  for (const PlannedLinear& linear : plan.linears) {
    const int64_t inputs = model::in_features(config, linear.linear);
    if (!linear.scheme || !plan.steps[linear.step]->solves(*linear.scheme)) continue;
    if (hf::is_routed(config, linear.linear)) {
      width_of_experts = std::max(width_of_experts, inputs);
    } else if (inputs > width) {
      width = inputs;
      widest = model::path_of(config, linear.linear);
    }
  }
  if (width_of_experts > 0) {
    const int64_t mean = num_tokens * config.num_experts_per_tok / config.num_experts;
    const int64_t enough = gptq::kEnoughForEachInput * width_of_experts;
    if (mean < enough)
      plan.warnings.push_back(
          "of " + std::to_string(num_tokens) + " calibration tokens " + std::to_string(mean) +
          " go to an expert on average, and " + std::to_string(enough) +
          " are enough to solve for its " + std::to_string(width_of_experts) +
          " inputs; experts with fewer are given average tokens of the layer in addition");
  }
  const int64_t enough = gptq::kEnoughForEachInput * width;
  if (num_tokens == 0 || num_tokens >= enough) return;
  bool leaves_out = false;
  for (const auto& step : plan.steps) leaves_out |= step->adapt_to_tokens(num_tokens);
  plan.warnings.push_back("gptq_quant solves for the " + std::to_string(width) + " inputs of " +
                          widest + " with " + std::to_string(num_tokens) +
                          " calibration tokens, which may be worse than plain rounding; " +
                          std::to_string(enough) + " are enough" +
                          (leaves_out ? "; its refit of linears with more than " +
                                            std::to_string(num_tokens / gptq::kEnoughForEachInput) +
                                            " inputs, which few tokens make worse, is left out"
                                      : ""));
}

// What is not done to layers with experts is refused, so that none is done by half.
void refuse_for_experts(const recipe::Processor& processor, Planning planning) {
  if (planning.plan.checkpoint.config().num_experts == 0) return;
  const auto* rotate = std::get_if<recipe::Rotate>(&processor.what);
  if (rotate != nullptr && !rotate->options.online && !rotate->options.use_fitted) return;
  if (std::holds_alternative<recipe::LinearQuant>(processor.what) ||
      std::holds_alternative<recipe::GptqQuant>(processor.what) ||
      std::holds_alternative<recipe::AutoroundQuant>(processor.what))
    return;
  planning.problems.add(
      {.what = "this is not done yet for models with experts",
       .where = processor.location.text(),
       .fix = "these models take quarot without online, linear_quant, gptq_quant and "
              "autoround_quant"});
}

// The processors of prior and main stages.
void plan_stages(Plan& plan, Problems& problems) {
  const hf::Config& config = plan.checkpoint.config();
  const recipe::Rotate* rotate = nullptr;
  for (const recipe::Processor& processor : plan.recipe.main.process)
    if (const auto* found = std::get_if<recipe::Rotate>(&processor.what)) rotate = found;
  for (const recipe::Stage& stage : plan.recipe.prior) {
    for (const recipe::Processor& processor : stage.process) {
      refuse_for_experts(processor, {plan, problems});
      const auto* fit = std::get_if<recipe::FitRotation>(&processor.what);
      LAOS_ASSERT(fit != nullptr);  // the recipe reader lets nothing else into `prior`
      require_hadamard(config.hidden_size, fit->options.block_size, "hidden_size",
                       processor.location, {plan, problems});
      try {
        (void)rotation::fitted_linears(config, fit->options);
      } catch (const Error& error) {
        for (Problem problem : error.problems()) {
          problem.where = processor.location.text() + "." + problem.where;
          problems.add(std::move(problem));
        }
      }
      // A matrix that nothing applies need not be fitted; the recipe's warnings say so.
      if (rotate != nullptr && rotate->options.use_fitted) {
        plan.fits.push_back({.options = fit->options, .dataset = nullptr, .samples = nullptr});
        plan.fits.back().options.compute = plan.options.compute;
      }
    }
  }
  for (const recipe::Processor& processor : plan.recipe.main.process) {
    refuse_for_experts(processor, {plan, problems});
    std::visit(
        [&](const auto& what) {
          // The recipe reader lets no fit into `process`.
          if constexpr (std::is_same_v<std::decay_t<decltype(what)>, recipe::FitRotation>)
            LAOS_ASSERT(false);
          else
            plan.steps.push_back(plan_step(what, processor.location, {plan, problems}));
        },
        processor.what);
  }
  if (plan.recipe.kv_cache)
    plan.steps.push_back(plan_step(*plan.recipe.kv_cache, {plan, problems}));
  const std::vector<save::SaverOptions>& savers = plan.recipe.save;
  if (savers.empty())
    problems.add({.what = "nothing would be written",
                  .where = plan.recipe.path.string() + " spec.save",
                  .fix = "give a saver: save: [{type: ascendv1_saver}]"});
  std::set<const save::Format*> formats;
  for (const save::SaverOptions& saver : savers)
    if (!formats.insert(saver.format).second)
      problems.add({.what = "two savers of one format, " + std::string(saver.format->name()),
                    .where = plan.recipe.path.string() + " spec.save",
                    .fix = "give one saver a format"});
}

void check_scheme(const hf::Config& config, const PlannedLinear& planned, Problems& problems) {
  const int64_t in_features = model::in_features(config, planned.linear),
                group_size = planned.scheme->weight.group_size;
  const std::string where = planned.name + ", asked for by " + planned.decided_by;
  if (group_size != 0 && in_features % group_size != 0)
    problems.add({.what = "group_size " + std::to_string(group_size) +
                          " does not divide in_features " + std::to_string(in_features),
                  .where = where,
                  .fix = "use a group_size that divides it, or add the linear to `exclude`"});
  if (planned.scheme->act.is_static && hf::expert_of(planned.linear) >= 0)
    problems.add({.what = "inputs of experts get no range that is fixed at calibration",
                  .where = where,
                  .fix = "give them scope: per_token"});
  const scheme::Scheme* row = scheme::find(planned.label);
  if (row == nullptr) return;
  const auto check = [&](const char* what, int64_t size, int64_t multiple) {
    if (size % multiple != 0)
      problems.add({.what = what + (" " + std::to_string(size)) + " is not a multiple of " +
                            std::to_string(multiple) + ", which " + planned.label +
                            " needs to be packed",
                    .where = where,
                    .fix = "add the linear to `exclude` or give it int8"});
  };
  check("in_features", in_features, row->in_multiple);
  check("out_features", model::out_features(config, planned.linear), row->out_multiple);
}

// A linear that no strategy includes stays float. That is a choice where a strategy excludes it, or
// where no linear of its kind is included anywhere; otherwise the recipe was probably written for
// a model of other layers. `named`: the linears that a strategy includes.
void check_coverage(const std::set<std::string>& named, Plan& plan, Problems& problems) {
  const std::string where = plan.recipe.path.string() + " spec.process";
  std::set<Linear> kinds;
  std::set<int64_t> layers;
  for (const PlannedLinear& linear : plan.linears) {
    if (!named.contains(linear.name)) continue;
    kinds.insert(linear.linear);
    layers.insert(linear.layer_idx);
  }
  if (layers.empty()) {
    problems.add({.what = "no strategy includes a linear of the model: nothing would be quantized",
                  .where = where,
                  .fix = "include them: [\"" +
                         std::string(hf::layers_name(plan.checkpoint.config())) +
                         ".*\"] names all of them; or leave the quantizer out"});
    return;
  }
  // Every layer of a model with fewer layers, and nothing of those behind them.
  const int64_t num_layers = plan.checkpoint.config().num_hidden_layers;
  const int64_t num_named = std::ssize(layers), count = num_layers - num_named;
  if (count > 0 && *layers.rbegin() == num_named - 1) {
    problems.add(
        {.what = "no strategy names the last " +
                 (count == 1 ? "decoder layer" : std::to_string(count) + " decoder layers") +
                 " of " + std::to_string(num_layers) + ": everything from layer " +
                 std::to_string(num_named) + " on would stay float",
         .where = where,
         .fix = "use a recipe for this model; layers that are to stay float are included, and "
                "excluded by name"});
    return;
  }
  std::vector<std::string> left;
  bool quantizes = false;
  for (const PlannedLinear& linear : plan.linears) {
    if (kinds.contains(linear.linear) && !named.contains(linear.name)) left.push_back(linear.name);
    quantizes = quantizes || linear.scheme;
  }
  if (!left.empty())
    plan.warnings.push_back(
        where + ": " + left.front() +
        (left.size() == 1 ? "" : " and " + std::to_string(left.size() - 1) + " more") +
        " left float: strategies include the same linears of other layers, but not these");
  if (!quantizes)
    plan.warnings.push_back(where +
                            ": every strategy leaves its linears float, so nothing is "
                            "quantized");
}

// Of a quantizer; of others none.
std::vector<recipe::Strategy> strategies_of(const recipe::Processor& processor) {
  return std::visit(
      [](const auto& what) -> std::vector<recipe::Strategy> {
        using What = std::decay_t<decltype(what)>;
        if constexpr (std::is_same_v<What, recipe::LinearQuant>)
          return {what.strategy};
        else if constexpr (std::is_same_v<What, recipe::GptqQuant> ||
                           std::is_same_v<What, recipe::AutoroundQuant>)
          return what.strategies;
        else
          return {};
      },
      processor.what);
}

// Linears whose inputs a flatquant changes: those of 4 bits that it includes. Others stay as they
// are.
void plan_pairs(const std::vector<std::string>& names, Plan& plan, Problems& problems) {
  const hf::Config& config = plan.checkpoint.config();
  for (const recipe::Processor& processor : plan.recipe.main.process) {
    const auto* pairs = std::get_if<recipe::Flatquant>(&processor.what);
    if (pairs == nullptr) continue;
    const recipe::Assignment assignment = assign({{.scheme = std::nullopt,
                                                   .include = pairs->include,
                                                   .exclude = pairs->exclude,
                                                   .location = processor.location}},
                                                 names, {plan, problems});
    bool any = false;
    std::map<std::pair<std::string, std::string>, int64_t> unfit;  // path and reason: how many
    for (PlannedLinear& planned : plan.linears) {
      if (!assignment.strategy_of.contains(planned.name) || !planned.scheme) continue;
      quant::LinearScheme scheme = *planned.scheme;
      if (scheme.act.is_static || scheme.act.bits != 4 || scheme.weight.bits != 4) continue;
      any = true;
      const int64_t in_features = model::in_features(config, planned.linear);
      const std::string where = planned.name + ", asked for by " + processor.location.text();
      if (scheme.weight.group_size != 0) {
        problems.add({.what = "flatquant's linears have one scale an output row",
                      .where = where,
                      .fix = "give them scope: per_channel"});
        continue;
      }
      const std::vector<int64_t> tp =
          hf::reads_residual(hf::group_of(planned.linear)) ? std::vector<int64_t>{1} : pairs->tp;
      scheme.act.pair_blocks = tp.front();
      std::string refusal;  // of engines' operator
      for (const int64_t ranks : tp) {
        if (in_features % ranks != 0) {
          problems.add({.what = "tp " + std::to_string(ranks) + " does not divide the " +
                                std::to_string(in_features) + " inputs",
                        .where = where,
                        .fix = "use another tp"});
          continue;
        }
        const scheme::PairSizes sizes = scheme::pair_sizes(in_features / ranks);
        if (refusal.empty()) refusal = sizes.refusal;
        if (tp.size() > 1) scheme.act.pair_unit = std::gcd(scheme.act.pair_unit, sizes.right);
      }
      if (!refusal.empty() && pairs->keeps_unfit) {
        unfit[{std::string(model::path_of(config, planned.linear)), refusal}]++;
        continue;
      }
      if (!refusal.empty()) {
        problems.add(
            {.what = "the engine's operator takes no such matrices: " + refusal,
             .where = where,
             .fix = "add the linear to flatquant's `exclude`" +
                    std::string(tp == std::vector<int64_t>{1} ? "" : ", or use another tp")});
        continue;
      }
      planned.scheme = scheme;
      planned.label = quant::label_of(scheme).value_or("");
    }
    for (const auto& [linear, count] : unfit)
      plan.warnings.push_back(processor.location.text() + ": " + linear.first + " of " +
                              std::to_string(count) + (count == 1 ? " layer" : " layers") +
                              " stays without a transform, which loses much: " + linear.second);
    if (!any)
      plan.warnings.push_back(processor.location.text() +
                              ": includes no linear of 4-bit weights and activations, so nothing "
                              "is transformed");
  }
}

// The savers of a recipe, or what stands for them where nothing is written.
std::vector<save::SaverOptions> savers_of(const Plan& plan) {
  return plan.recipe.save.empty() ? std::vector<save::SaverOptions>(1) : plan.recipe.save;
}

// Which quantizer and which of its strategies decides each linear: the first that matches.
void plan_linears(Plan& plan, Problems& problems) {
  const hf::Config& config = plan.checkpoint.config();
  std::vector<std::string> names;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const Linear l : model::linears_in(config, i)) {
      names.push_back(model::name_of(config, i, l));
      plan.linears.push_back(
          {names.back(), i, l, std::nullopt, 0, scheme::kFloatLabel, "no strategy matches"});
    }
  const std::string head = hf::lm_head_name(config);
  names.push_back(head);        // patterns may name it, but it stays float
  std::set<std::string> named;  // included by a strategy, whatever it decides
  bool has_quantizer = false;
  std::set<std::string> refusals;
  for (size_t step = 0; step < plan.recipe.main.process.size(); ++step) {
    const recipe::Processor& processor = plan.recipe.main.process[step];
    const auto* round = std::get_if<recipe::LinearQuant>(&processor.what);
    const std::vector<recipe::Strategy> strategies = strategies_of(processor);
    if (strategies.empty()) continue;
    const recipe::Assignment assignment = assign(strategies, names, {plan, problems});
    has_quantizer = true;
    named.insert(assignment.excluded.begin(), assignment.excluded.end());
    for (const auto& [name, unused] : assignment.strategy_of) named.insert(name);
    if (round == nullptr && assignment.strategy_of.contains(head))
      plan.warnings.push_back(head + " matches " +
                              strategies[assignment.strategy_of.at(head)].location.text() +
                              " but stays float: only linears of decoder layers are quantized");
    int64_t num_late = 0;
    for (PlannedLinear& planned : plan.linears) {
      const auto found = assignment.strategy_of.find(planned.name);
      if (found == assignment.strategy_of.end()) continue;
      const recipe::Strategy& strategy = strategies[found->second];
      if (planned.scheme) {
        ++num_late;
        continue;
      }
      planned.decided_by = strategy.location.text();
      planned.scheme = strategy.scheme;
      if (!planned.scheme) continue;  // asked to stay float; a later quantizer may still take it
      if (round != nullptr) {
        planned.scheme->weight.scale_dtype = config.dtype;
        planned.scheme->weight.min_scale = 0x1p-23f;
      }
      planned.step = step;
      planned.label = quant::label_of(*planned.scheme).value_or("");
      check_scheme(config, planned, problems);
      const scheme::Scheme* row = scheme::find(planned.label);
      if (row == nullptr) continue;
      planned.scheme->weight.signed_scale = row->signed_scales;
      const int64_t num_groups = planned.scheme->weight.group_size == 0 ? 1 : 2;
      for (const save::SaverOptions& saver : savers_of(plan)) {
        const std::string refusal =
            row->refused_by(scheme::first_engine_of(saver.format->id()), num_groups,
                            hf::is_routed(config, planned.linear));
        if (!refusal.empty() && refusals.insert(refusal).second)
          plan.warnings.push_back(strategy.location.text() + ": " + refusal);
      }
    }
    if (num_late > 0)
      plan.warnings.push_back(processor.location.text() + ": also matches " +
                              std::to_string(num_late) +
                              " linears that an earlier processor quantizes; the first stays");
  }
  plan_pairs(names, plan, problems);
  if (has_quantizer)
    check_coverage(named, plan, problems);
  else
    plan.warnings.push_back(plan.recipe.path.string() +
                            ": no processor quantizes, so every linear stays float");
}

// Engines run a float32 model as bfloat16, but would read its static scales as those of float16;
// and their pairs of matrices are of a model's 16-bit dtype.
void plan_float_dtype(Plan& plan) {
  plan.float_dtype = plan.checkpoint.config().dtype;
  const auto has = [&](auto&& property) {
    return std::any_of(plan.linears.begin(), plan.linears.end(), [&](const PlannedLinear& linear) {
      return linear.scheme && property(linear.scheme->act);
    });
  };
  const bool is_static = has([](const quant::ActSpec& act) { return act.is_static; });
  const bool has_pairs = has([](const quant::ActSpec& act) { return act.pair_blocks > 0; });
  if (plan.float_dtype != DType::kF32 || (!is_static && !has_pairs)) return;
  plan.float_dtype = DType::kBF16;
  for (PlannedLinear& linear : plan.linears)
    if (linear.scheme &&
        std::holds_alternative<recipe::LinearQuant>(plan.recipe.main.process[linear.step].what))
      linear.scheme->weight.scale_dtype = plan.float_dtype;
  plan.warnings.push_back(
      std::string("the model is float32 and has ") +
      (is_static ? "static activations" : "transformed activations") +
      ", which engines run as bfloat16 only: its float tensors are written as bfloat16");
}

// Linears that engines fuse have one label. A problem for each way in which they do not, with the
// layers and with what decided.
void require_one_label(const std::vector<save::OutputLinear>& linears, const Plan& plan,
                       Problems& problems) {
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> layers_of;
  for (const save::FusedConflict& conflict :
       save::find_fused_conflicts(plan.checkpoint.config(), linears)) {
    std::string listed, deciders;
    for (size_t i = 0; i < conflict.members.size(); ++i) {
      const auto found =
          std::find_if(plan.linears.begin(), plan.linears.end(), [&](const PlannedLinear& linear) {
            return linear.name == conflict.layer + "." + conflict.members[i];
          });
      LAOS_ASSERT(found != plan.linears.end());
      listed += (i == 0 ? "" : ", ") + conflict.members[i] + " is " + conflict.labels[i];
      deciders += "; " + conflict.members[i] + ": " + found->decided_by;
    }
    layers_of[{listed, deciders}].push_back(conflict.layer);
  }
  for (const auto& [how, layers] : layers_of)
    problems.add(
        {.what = "linears that the engine fuses have different labels: " + how.first,
         .where =
             layers.front() +
             (layers.size() == 1 ? "" : " and " + std::to_string(layers.size() - 1) + " more") +
             how.second,
         .fix = "give them one scheme"});
}

// Stage 1 makes activations of one width cheap; says so when none of the linears whose inputs it
// fits to reads that width.
void warn_of_another_width(const rotation::FitOptions& fit, const recipe::Location& location,
                           Plan& plan) {
  const std::vector<Linear> fitted = rotation::fitted_linears(plan.checkpoint.config(), fit);
  std::set<int> widths;
  for (const PlannedLinear& linear : plan.linears)
    if (linear.scheme && linear.scheme->act.bits < 16 &&
        std::find(fitted.begin(), fitted.end(), linear.linear) != fitted.end())
      widths.insert(linear.scheme->act.bits);
  if (widths.empty() || widths.contains(fit.quant_bits)) return;
  const std::string theirs = "int" + std::to_string(*widths.begin());
  plan.warnings.push_back(location.text() + ".quant_dtype: stage 1 fits the rotation to int" +
                          std::to_string(fit.quant_bits) +
                          " activations, but the linears it looks at get " + theirs +
                          "; write `quant_dtype: " + theirs + "`");
}

// What the writer must know of online rotations.
std::optional<save::OnlineLayout> online_layout(const Plan& plan) {
  const rotation::RotateOptions* rotate = plan.rotate();
  if (rotate == nullptr || !rotate->online) return std::nullopt;
  const auto factors = rotation::kronecker_factors(plan.checkpoint.config().intermediate_size);
  if (!factors) return std::nullopt;  // refused already
  std::vector<int64_t> layers = rotate->down_online_layers;
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return save::OnlineLayout{rotate->max_tp_size, factors->first, factors->second, layers};
}

// Every so manyth of `samples`, as many as have enough tokens for the fit, and kLeast at least.
// Reading all of 48 samples took a third of --fast, and SmolLM2-135M was no better for it: KL 0.180
// of all, 0.182 of 8, 0.174 of 4, each +- 0.007.
std::shared_ptr<const Samples> read_by_fit(const hf::Config& config,
                                           const rotation::FitOptions& options,
                                           const std::shared_ptr<const Samples>& samples) {
  constexpr int64_t kLeast = 8;
  const int64_t count = std::ssize(*samples), tokens = lengths_of(*samples).num_tokens(),
                wanted = rotation::enough_tokens(config, options);
  int64_t kept = std::max(kLeast, (wanted * count + tokens - 1) / tokens);
  for (; kept < count; kept += (kept + 1) / 2) {  // those chosen may be short ones
    Samples spread;
    for (int64_t i = 0; i < kept; ++i)
      spread.push_back((*samples)[static_cast<size_t>(i * count / kept)]);
    if (lengths_of(spread).num_tokens() >= wanted)
      return std::make_shared<const Samples>(std::move(spread));
  }
  return samples;
}

// Enough rows to fit a rotation to, or a refusal.
void plan_fit_rows(PlannedFit& fit, const recipe::Location& location, Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  const model::Ragged samples = lengths_of(*fit.samples);
  fit.chunks = rotation::chunks_for_full_rank(config, fit.options, samples);
  const std::string have = std::to_string(samples.num_sequences()) + " samples of " +
                           std::to_string(samples.num_tokens()) + " tokens";
  if (fit.chunks == 0) {
    const int64_t per_layer =
        (config.hidden_size + config.num_hidden_layers - 1) / config.num_hidden_layers;
    throw Error(ErrorCode::kData,
                {.what = "stage 1 cannot fit a rotation of " + std::to_string(config.hidden_size) +
                         " dimensions to " + have + ": it needs " + std::to_string(per_layer) +
                         " samples, or as many tokens",
                 .where = location.text(),
                 .fix = "use more calibration data (and max_samples of at least " +
                        std::to_string(per_layer) + "), or `type: quarot`"});
  }
  if (fit.options.objective == rotation::FitObjective::kTokenRange) {
    fit.chunks = model::longest_sample(samples);  // a row a token
    fit.samples = read_by_fit(config, fit.options, fit.samples);
    return;
  }
  if (fit.chunks > 1)
    plan.warnings.push_back(location.text() + ": " + have + " give too few token means for " +
                            std::to_string(config.hidden_size) +
                            " dimensions, so each sample is cut into up to " +
                            std::to_string(fit.chunks) + " parts");
}

}  // namespace

recipe::Assignment assign(const std::vector<recipe::Strategy>& strategies,
                          const std::vector<std::string>& names, Planning planning) {
  recipe::Assignment assignment = recipe::assign(strategies, names);
  std::vector<std::string>& warnings = planning.plan.warnings;
  warnings.insert(warnings.end(), assignment.warnings.begin(), assignment.warnings.end());
  for (const Problem& problem : assignment.problems) planning.problems.add(problem);
  return assignment;
}

double transform_share(const Plan& plan) {
  const hf::Config& config = plan.checkpoint.config();
  double linears = 0, transforms = 0;
  for (const PlannedLinear& planned : plan.linears) {
    const int64_t in_features = model::in_features(config, planned.linear);
    linears += static_cast<double>(model::out_features(config, planned.linear)) *
               static_cast<double>(in_features);
    const int64_t blocks = planned.pair_blocks();
    const bool is_first = planned.linear == hf::linears_of(hf::group_of(planned.linear)).front();
    if (blocks == 0 || !is_first) continue;
    const scheme::PairSizes sizes = scheme::pair_sizes(in_features / blocks);
    transforms += static_cast<double>(in_features * (sizes.left + sizes.right));
  }
  return transforms / linears;
}

const rotation::RotateOptions* Plan::rotate() const noexcept {
  for (const auto& step : steps)
    if (const rotation::RotateOptions* found = step->rotates()) return found;
  return nullptr;
}

std::string Plan::step_type(size_t step) const {
  const std::vector<recipe::Processor>& process = recipe.main.process;
  return step < process.size() ? process[step].type : "kv_cache";
}

bool Plan::reads_activations(int64_t layer_idx) const {
  return std::any_of(steps.begin(), steps.end(),
                     [&](const auto& step) { return step->reads(*this, layer_idx); });
}

bool Plan::reads_activations_from(int64_t layer_idx) const {
  for (int64_t i = layer_idx; i < checkpoint.config().num_hidden_layers; ++i)
    if (reads_activations(i)) return true;
  return false;
}

namespace {

void check_scratch(const Plan& plan) {
  const std::filesystem::path& path = plan.options.scratch_path;
  std::error_code error;
  if (!std::filesystem::is_directory(path, error))
    throw Error(ErrorCode::kIo, {.what = "there is no such directory",
                                 .where = "--tmp " + path.string(),
                                 .fix = "make it, or leave --tmp out"});
  const int64_t needed = scratch_bytes(plan);
  const std::filesystem::space_info space = std::filesystem::space(path, error);
  if (!error && space.available < static_cast<uintmax_t>(needed))
    throw Error(ErrorCode::kResource,
                {.what = bytes_text(needed) + " are needed for hidden states and " +
                         bytes_text(static_cast<double>(space.available)) + " are free",
                 .where = "--tmp " + path.string(),
                 .fix = "free disk space, or name another directory"});
}

// The fastest way that fits.
void plan_memory(Plan& plan) {
  const bool is_asked = plan.options.max_memory > 0;
  int64_t limit = is_asked ? plan.options.max_memory : available_memory_bytes();
  const auto bytes = [&](int level) {
    for (const auto& step : plan.steps) step->save_memory(level);
    return peak_ram_bytes(plan);
  };
  int64_t needed = bytes(0);
  int best = 0;
  for (int level = 1; level <= Step::kMostSavings && needed > limit; ++level)
    // Pieces of small batches take more: gradients are added up.
    if (const int64_t less = bytes(level); less < needed) {
      needed = less;
      best = level;
    }
  bytes(best);
  int64_t passes = 1;
  for (const auto& step : plan.steps)
    for (int64_t i = 0; i < plan.checkpoint.config().num_hidden_layers; ++i)
      if (step->reads(plan, i)) passes = std::max(passes, step->looks(plan, i));
  if (passes > 1)
    plan.warnings.push_back("memory is short: a layer's experts are solved for in " +
                            std::to_string(passes) + " passes over the text, which takes longer");
  if (needed <= limit || !plan.options.writes) return;
  if (!is_asked && needed <= (limit = available_memory_bytes(needed))) return;
  throw Error(ErrorCode::kResource,
              {.what = "the run needs about " + bytes_text(needed) + " of memory, and " +
                       (is_asked ? "may take " : "this machine has ") + bytes_text(limit) +
                       (is_asked ? "" : " free"),
               .where = "--max-memory",
               .fix = is_asked ? "allow it that much"
                               : "free that much, or allow it to try by --max-memory"});
}

}  // namespace

namespace {

void choose_formats(const std::vector<std::string>& names, recipe::Recipe& recipe) {
  if (recipe.save.empty()) return;  // nothing is written, which the plan says
  const save::SaverOptions first = recipe.save.front();
  recipe.save.clear();
  std::vector<std::string> types;
  for (const std::string& name : names) {
    save::SaverOptions& saver = recipe.save.emplace_back(first);
    saver.format = &save::format_named(name);
    types.emplace_back(saver.format->saver_type());
  }
  recipe.yaml = recipe::with_savers(recipe, types);
}

void choose_flatquant(const QuantOptions& options, recipe::Recipe& recipe) {
  bool has_flatquant = false;
  for (recipe::Processor& processor : recipe.main.process) {
    auto* flatquant = std::get_if<recipe::Flatquant>(&processor.what);
    if (flatquant == nullptr) continue;
    has_flatquant = true;
    if (options.clip) flatquant->options.clip = *options.clip;
    if (!options.tp.empty()) flatquant->tp = options.tp;
  }
  if (!has_flatquant)
    throw Error(ErrorCode::kUsage, {.what = "the recipe has no flatquant that they could change",
                                    .where = "--tp, --no-clip",
                                    .fix = "add --online, or leave them out"});
  recipe.yaml = recipe::with_flatquant(recipe, options.clip, options.tp);
}

// Hours of work are not done again, or replaced by another model's, because a command was repeated.
void refuse_finished(const QuantOptions& options, const save::CheckpointJob& job) {
  if (options.restart || hf::format_of(job.save_path) != job.format->id() ||
      save::work_status(options.save_path).has_work)
    return;
  throw Error(ErrorCode::kUsage,
              {.what = "a finished checkpoint is here already",
               .where = job.save_path.string(),
               .fix = "choose another save path, or add --restart to make one anew in its place; "
                      "laos check tells how good this one is"});
}

}  // namespace

recipe::Recipe recipe_of(const QuantOptions& options) {
  recipe::Recipe recipe =
      options.recipe_text.empty()
          ? recipe::load_recipe(options.recipe_path)
          : recipe::parse_recipe(options.recipe_text, options.recipe_path.string());
  if (!options.formats.empty()) choose_formats(options.formats, recipe);
  if (options.clip || !options.tp.empty()) choose_flatquant(options, recipe);
  if (options.int8_cache && !recipe.kv_cache) {
    recipe.kv_cache =
        recipe::KvCache{.location = {.file = "--kv-cache", .line = 0, .column = 0, .key = ""}};
    recipe.yaml = recipe::with_int8_cache(recipe);
  }
  return recipe;
}

Plan make_plan(const QuantOptions& options) {
  Collector collector;
  std::optional<recipe::Recipe> recipe;
  std::optional<model::Checkpoint> checkpoint;
  std::optional<hf::Tokenizer> tokenizer;
  collector.run([&] { recipe = recipe_of(options); });
  collector.run(
      [&] { checkpoint = model::Checkpoint::open(options.model_path, options.families); });
  // A missing checkpoint is one problem, not three.
  if (checkpoint)
    collector.run([&] { tokenizer = hf::Tokenizer::load(options.model_path, options.bos); });
  if (!recipe || !checkpoint) collector.throw_if_any();

  Plan plan{.options = options,
            .checkpoint = std::move(*checkpoint),
            .recipe = std::move(*recipe),
            .fits = {},
            .steps = {},
            .samples = std::make_shared<Samples>(),
            .dataset_path = {},
            .is_default_dataset = false,
            .held_back = std::make_shared<Samples>(),
            .linears = {},
            .float_dtype = DType::kBF16,
            .job = {},
            .warnings = {},
            .refusals = {}};
  plan.warnings = plan.recipe.warnings;
  plan.warnings.insert(plan.warnings.end(), plan.checkpoint.warnings().begin(),
                       plan.checkpoint.warnings().end());
  Problems problems;
  collector.run([&] { plan_stages(plan, problems); });
  collector.run([&] { plan_linears(plan, problems); });
  const hf::Config& config = plan.checkpoint.config();

  std::map<std::string, size_t> linear_of;
  for (size_t i = 0; i < plan.linears.size(); ++i) linear_of[plan.linears[i].name] = i;
  const auto scheme_of = [&](const std::string& name) -> std::optional<quant::LinearScheme> {
    const auto found = linear_of.find(name);
    return found == linear_of.end() ? std::nullopt : plan.linears[found->second].scheme;
  };
  plan_float_dtype(plan);
  require_one_label(save::output_linears(config, scheme_of), plan, problems);
  collector.add(ErrorCode::kRecipe, problems.list());

  if (tokenizer) {
    Datasets datasets(options, plan.recipe, *tokenizer, plan.warnings);
    const auto load = [&](const recipe::Stage& stage) {
      const Dataset& dataset = datasets.load(stage);
      plan.dataset_path = dataset.path;
      plan.is_default_dataset = dataset.is_default;
      plan.held_back = dataset.held_back;
      return dataset.samples;
    };
    for (const recipe::Stage& stage : plan.recipe.prior)
      for (size_t i = 0; i < stage.process.size() && !plan.fits.empty(); ++i)
        collector.run([&] {
          PlannedFit& fit = plan.fits.front();  // a recipe has one at most
          if (problems.list().empty())
            warn_of_another_width(fit.options, stage.process[i].location, plan);
          fit.dataset = fit.samples = load(stage);
          // Options that fit nothing have been reported.
          if (problems.list().empty()) plan_fit_rows(fit, stage.process[i].location, plan);
        });
    const bool wanted = options.reads_dataset && plan.fits.empty();
    if (plan.reads_activations_from(0) || wanted)
      collector.run([&] { plan.samples = load(plan.recipe.main); });
    else if (options.dataset && plan.fits.empty())
      plan.warnings.push_back(
          "nothing in the recipe looks at calibration data: " + *options.dataset + " is not read");
    std::set<const Samples*> checked;
    const auto check = [&](const std::shared_ptr<const Samples>& samples) {
      if (samples && checked.insert(samples.get()).second)
        collector.run([&] { check_samples(*samples, config, plan); });
    };
    for (const PlannedFit& planned : plan.fits) check(planned.samples);
    check(plan.samples);
    if (collector.empty()) warn_of_few_tokens(plan);
  }
  // A dry run shows the plan all the same.
  const auto refuse_or_note = [&](auto&& check) {
    if (!options.dry_run) return (void)collector.run(check);
    Collector noted;
    noted.run(check);
    plan.refusals.insert(plan.refusals.end(), noted.list().begin(), noted.list().end());
  };
  const bool has_job = collector.run([&] {
    const std::optional<save::OnlineLayout> online = online_layout(plan);
    const std::vector<save::SaverOptions> savers = savers_of(plan);
    std::vector<save::CheckpointJob> jobs;
    Collector refused;  // by all formats at once
    for (const save::SaverOptions& saver : savers)
      refused.run([&] {
        const bool is_one = savers.size() == 1;
        jobs.push_back(
            {.save_path = is_one ? options.save_path : options.save_path / saver.format->name(),
             .model_directory = options.model_path,
             .float_dtype = plan.float_dtype,
             .tensors = save::output_tensors(config, plan.float_dtype, scheme_of,
                                             online ? &*online : nullptr, *saver.format,
                                             plan.recipe.kv_cache.has_value()),
             .max_shard_bytes = save::max_shard_bytes(saver),
             .model_type = options.model_type,
             .recipe_yaml = plan.recipe.yaml,
             .online = online,
             .global_rotation = plan.rotate() != nullptr && plan.rotate()->export_extra_info
                                    ? config.hidden_size
                                    : 0,
             .format = saver.format,
             .work_path = is_one ? std::filesystem::path() : options.save_path});
      });
    refused.throw_if_any();
    plan.job = std::move(jobs.front());
    plan.job.others.assign(std::make_move_iterator(jobs.begin() + 1),
                           std::make_move_iterator(jobs.end()));
    // What has problems has no identity yet, and needs none.
    if (options.writes && collector.empty()) {
      plan.job.work = work_plan(plan);
      // Reading the whole model pays only where there is something to hold it against.
      if (!options.restart && save::work_status(options.save_path).has_finished_parts())
        add_model_content(plan, plan.job.work, nullptr);
    }
  });
  if (!options.scratch_path.empty() && collector.empty())
    refuse_or_note([&] { check_scratch(plan); });
  if (options.writes && has_job) {
    for (const save::CheckpointJob* job : save::all_jobs(plan.job))
      refuse_or_note([&] { refuse_finished(options, *job); });
    refuse_or_note(
        [&] { save::check_output_path(plan.job, save::planned_bytes_of_all(plan.job)); });
  }
  collector.throw_if_any();
  tokenizer.reset();
  give_back_freed();
  refuse_or_note([&] { plan_memory(plan); });
  collector.throw_if_any();
  return plan;
}

}  // namespace laos::pipeline
