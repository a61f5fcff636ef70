#include "pipeline/plan.h"

#include <algorithm>
#include <set>

#include "core/threads.h"
#include "hf/dataset.h"
#include "hf/tokenizer.h"
#include "linalg/hadamard.h"
#include "rotation/fit.h"

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
  void throw_if_any() const {
    if (!problems_.empty()) throw Error(code_, problems_);
  }

 private:
  ErrorCode code_ = ErrorCode::kInternal;
  std::vector<Problem> problems_;
};

// Finds, reads and tokenizes datasets, each file once.
class Datasets {
 public:
  Datasets(const QuantOptions& options, const recipe::Recipe& recipe,
           const hf::Tokenizer& tokenizer)
      : options_(options), recipe_directory_(recipe.path.parent_path()), tokenizer_(tokenizer) {}

  std::shared_ptr<const Samples> load(const recipe::Stage& stage) {
    const std::string name = options_.dataset.value_or(stage.dataset);
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
    std::shared_ptr<const Samples>& samples = loaded_[file];
    if (!samples)
      samples =
          std::make_shared<Samples>(hf::load_samples(file, tokenizer_, options_.calib_seq_len));
    return samples;
  }

 private:
  const QuantOptions& options_;
  const std::filesystem::path recipe_directory_;
  const hf::Tokenizer& tokenizer_;
  std::map<std::filesystem::path, std::shared_ptr<const Samples>> loaded_;
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
  if (config.max_position_embeddings > 0 && longest > config.max_position_embeddings)
    plan.warnings.push_back("the longest calibration sample has " + std::to_string(longest) +
                            " tokens, more than max_position_embeddings " +
                            std::to_string(config.max_position_embeddings));
}

void require_hadamard(int64_t size, int64_t block_size, const std::string& dimension,
                      const recipe::Location& location, Problems& problems) {
  const int64_t block = block_size == -1 ? size : block_size;
  if (block < 1 || block > size || size % block != 0)
    problems.add({.what = "block_size " + std::to_string(block) + " does not divide " + dimension +
                          " " + std::to_string(size),
                  .where = location.text(),
                  .fix = "use -1, or a power of two that divides it"});
  else if (linalg::hadamard_order(block) == 0)
    problems.add(
        {.what = "no Hadamard matrix is known for " + dimension + " " + std::to_string(size),
         .where = location.text(),
         .fix = "sizes are K * 2^k with K one of 1, 12, 20, 28, 36, 40, 52, 60, 76, 108, 136, 140, "
                "156, "
                "160, 172, 200; set block_size to a power of two that divides it"});
}

// The processors of prior and main stages, in the one arrangement that laos runs.
void plan_stages(Plan& plan, Problems& problems) {
  const hf::Config& config = plan.checkpoint.config();
  for (const recipe::Stage& stage : plan.recipe.prior) {
    for (const recipe::Processor& processor : stage.process) {
      const auto* fit = std::get_if<recipe::FitRotation>(&processor.what);
      LAOS_ASSERT(fit != nullptr);  // the recipe reader lets nothing else into `prior`
      require_hadamard(config.hidden_size, fit->options.block_size, "hidden_size",
                       processor.location, problems);
      try {
        (void)rotation::fitted_linears(fit->options);
      } catch (const Error& error) {
        for (Problem problem : error.problems()) {
          problem.where = processor.location.text() + "." + problem.where;
          problems.add(std::move(problem));
        }
      }
      plan.fits.push_back({fit->options, nullptr});
    }
  }
  for (const recipe::Processor& processor : plan.recipe.main.process) {
    if (const auto* rotate = std::get_if<recipe::Rotate>(&processor.what)) {
      if (plan.rotate || plan.train)
        problems.add({.what = plan.rotate ? "the weights are rotated twice"
                                          : "rotation comes after quantization",
                      .where = processor.location.text(),
                      .fix = "keep one adapt_rotation stage 2, before autoround_quant"});
      plan.rotate = rotate->options;
      require_hadamard(config.head_dim, rotate->options.block_size, "head_dim", processor.location,
                       problems);
      if (plan.fits.empty())
        require_hadamard(config.hidden_size, rotate->options.block_size, "hidden_size",
                         processor.location, problems);
    } else if (const auto* train = std::get_if<recipe::AutoroundQuant>(&processor.what)) {
      if (plan.train)
        problems.add({.what = "a second autoround_quant",
                      .where = processor.location.text(),
                      .fix = "put all strategies into one autoround_quant"});
      plan.train = train->options;
    }
  }
  if (!plan.fits.empty() && !plan.rotate)
    plan.warnings.push_back("adapt_rotation stage 1 fits a rotation that no stage 2 applies");
  if (plan.recipe.save.size() != 1)
    problems.add(
        {.what = plan.recipe.save.empty() ? "nothing would be written" : "more than one saver",
         .where = plan.recipe.path.string() + " spec.save",
         .fix = "give one saver: save: [{type: ascendv1_saver}]"});
}

void plan_linears(Plan& plan, Problems& problems) {
  const hf::Config& config = plan.checkpoint.config();
  const recipe::AutoroundQuant* quant = nullptr;
  for (const recipe::Processor& processor : plan.recipe.main.process)
    if (const auto* found = std::get_if<recipe::AutoroundQuant>(&processor.what)) quant = found;

  std::vector<std::string> names;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const Linear l : model::kAllLinears) names.push_back(model::name_of(i, l));
  names.emplace_back("lm_head");
  recipe::Assignment assignment;
  if (quant != nullptr) {
    assignment = recipe::assign(quant->strategies, names);
    plan.warnings.insert(plan.warnings.end(), assignment.warnings.begin(),
                         assignment.warnings.end());
    if (assignment.strategy_of.contains("lm_head"))
      plan.warnings.push_back(
          "lm_head matches " +
          quant->strategies[assignment.strategy_of.at("lm_head")].location.text() +
          " but stays float: only linears of decoder layers are quantized");
  }
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    for (const Linear l : model::kAllLinears) {
      PlannedLinear planned{model::name_of(i, l), i, l, std::nullopt, quant::kFloatLabel,
                            "no strategy matches"};
      const auto found = assignment.strategy_of.find(planned.name);
      if (found != assignment.strategy_of.end()) {
        const recipe::Strategy& strategy = quant->strategies[found->second];
        planned.scheme = strategy.scheme;
        planned.label = quant::label_of(strategy.scheme).value_or("");
        planned.decided_by = strategy.location.text();
        const int64_t group_size = strategy.scheme.weight.group_size;
        if (group_size != 0 && model::in_features(config, l) % group_size != 0)
          problems.add({.what = "group_size " + std::to_string(group_size) +
                                " does not divide in_features " +
                                std::to_string(model::in_features(config, l)),
                        .where = planned.name + ", asked for by " + planned.decided_by,
                        .fix = "use a group_size that divides it, or add the linear to `exclude`"});
        if (planned.label == "W4A4_DYNAMIC" && model::in_features(config, l) % 8 != 0)
          problems.add({.what = "in_features " + std::to_string(model::in_features(config, l)) +
                                " is not a multiple of 8, which W4A4_DYNAMIC needs to be packed",
                        .where = planned.name + ", asked for by " + planned.decided_by,
                        .fix = "add the linear to `exclude` or give it int8"});
      }
      plan.linears.push_back(std::move(planned));
    }
  }
}

}  // namespace

bool Plan::trains_from(int64_t layer_idx) const {
  return train && (train->enable_round_tuning || train->enable_minmax_tuning) &&
         std::any_of(linears.begin(), linears.end(), [&](const PlannedLinear& linear) {
           return linear.layer_idx >= layer_idx && linear.scheme;
         });
}

Plan make_plan(const QuantOptions& options) {
  Collector collector;
  std::optional<recipe::Recipe> recipe;
  std::optional<model::Checkpoint> checkpoint;
  std::optional<hf::Tokenizer> tokenizer;
  collector.run([&] { recipe = recipe::load_recipe(options.recipe_path); });
  collector.run([&] { checkpoint = model::Checkpoint::open(options.model_path); });
  // A missing checkpoint is one problem, not three.
  if (checkpoint) collector.run([&] { tokenizer = hf::Tokenizer::load(options.model_path); });
  if (!recipe || !checkpoint) collector.throw_if_any();

  Plan plan{.options = options,
            .checkpoint = std::move(*checkpoint),
            .recipe = std::move(*recipe),
            .fits = {},
            .rotate = std::nullopt,
            .train = std::nullopt,
            .samples = std::make_shared<Samples>(),
            .linears = {},
            .job = {},
            .warnings = {}};
  plan.warnings = plan.recipe.warnings;
  Problems problems;
  plan_stages(plan, problems);
  collector.run([&] { plan_linears(plan, problems); });
  const hf::Config& config = plan.checkpoint.config();

  const auto scheme_of = [&plan](const std::string& name) -> std::optional<quant::LinearScheme> {
    const auto found =
        std::find_if(plan.linears.begin(), plan.linears.end(),
                     [&](const PlannedLinear& linear) { return linear.name == name; });
    return found == plan.linears.end() ? std::nullopt : found->scheme;
  };
  const Problems fused = save::check_fused_groups(save::output_linears(config, scheme_of));
  for (const Problem& problem : fused.list()) problems.add(problem);
  collector.add(ErrorCode::kRecipe, problems.list());

  if (tokenizer) {
    Datasets datasets(options, plan.recipe, *tokenizer);
    size_t fit = 0;
    for (const recipe::Stage& stage : plan.recipe.prior)
      for (size_t i = 0; i < stage.process.size(); ++i, ++fit)
        collector.run([&] { plan.fits[fit].samples = datasets.load(stage); });
    if (plan.trains_from(0)) collector.run([&] { plan.samples = datasets.load(plan.recipe.main); });
    std::set<const Samples*> checked;
    const auto check = [&](const std::shared_ptr<const Samples>& samples) {
      if (samples && checked.insert(samples.get()).second)
        collector.run([&] { check_samples(*samples, config, plan); });
    };
    for (const PlannedFit& planned : plan.fits) check(planned.samples);
    check(plan.samples);
  }
  collector.run([&] {
    plan.job = {.save_path = options.save_path,
                .model_directory = options.model_path,
                .tensors = save::output_tensors(config, config.dtype, scheme_of),
                .max_shard_bytes = save::max_shard_bytes(
                    plan.recipe.save.empty() ? save::AscendV1Options{} : plan.recipe.save[0]),
                .model_type = options.model_type,
                .recipe_yaml = plan.recipe.yaml};
    save::check_output_path(plan.job, save::planned_bytes(plan.job));
  });
  collector.throw_if_any();
  return plan;
}

}  // namespace laos::pipeline
