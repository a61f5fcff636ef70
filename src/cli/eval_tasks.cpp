#include "cli/eval_tasks.h"

#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/data_path.h"
#include "cli/emulate.h"
#include "cli/job.h"
#include "cli/model_text.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "core/error.h"
#include "eval/tasks.h"
#include "hf/generation_config.h"

namespace laos::cli {
namespace {

using TaskJson = nlohmann::ordered_json;
using Summaries = std::vector<eval::TaskSummary>;

// The file that is meant.
std::filesystem::path tasks_file(const std::string& name) {
  if (name != kDefaultTasks) return name;
  for (const std::filesystem::path& directory : data_directories("tasks"))
    if (std::filesystem::is_regular_file(directory / "default.jsonl"))
      return directory / "default.jsonl";
  throw Error(ErrorCode::kIo,
              {.what = "laos finds no tasks: the program was moved away from them",
               .where = data_candidates("tasks"),
               .fix = "set LAOS_DATA_DIR to the directory that holds tasks, or name a file"});
}

void add_figures(std::vector<std::string>& row, const eval::TaskSummary& s, bool beside) {
  row.insert(row.end(), {std::to_string(s.num_items), mean_text(s.accuracy),
                         s.num_choice > 0 ? mean_text(s.accuracy_normalised) : "-"});
  if (!beside) return;
  row.insert(row.end(),
             {std::to_string(s.lost), std::to_string(s.gained), std::to_string(s.changed)});
  const bool has = s.num_likelihoods > 0;
  row.insert(row.end(), {has ? mean_text(s.logprob_change, 3) : "-", has ? mean_text(s.kl) : "-"});
}

std::vector<std::string> header(const char* first, bool beside) {
  std::vector<std::string> row = {first, "items", "accuracy", "normalised"};
  if (beside)
    row.insert(row.end(), {"right to wrong", "wrong to right", "changed", "log-probability", "KL"});
  return row;
}

// One checkpoint: a row a task.
void print_tasks(const Summaries& summaries, const Summaries* baseline) {
  std::vector<std::vector<std::string>> rows = {header("task", baseline != nullptr)};
  if (baseline != nullptr) rows.front().push_back("baseline's accuracy");
  for (size_t i = 0; i < summaries.size(); ++i) {
    rows.push_back({one_line(summaries[i].task)});
    add_figures(rows.back(), summaries[i], baseline != nullptr);
    if (baseline != nullptr) rows.back().push_back(mean_text((*baseline)[i].accuracy));
  }
  print_rows(rows);
}

// More: a row a checkpoint for all items, then the accuracy of each task.
void print_checkpoints(const std::vector<std::string>& paths,
                       const std::vector<Summaries>& summaries, const Summaries* baseline,
                       const std::string& baseline_path) {
  std::vector<std::vector<std::string>> rows = {header("checkpoint", baseline != nullptr)},
                                        tasks = {{"accuracy"}};
  for (const eval::TaskSummary& summary : summaries.front())
    tasks.front().push_back(one_line(summary.task));
  const auto add = [&](const std::string& path, const Summaries& of, bool beside) {
    rows.push_back({path});
    add_figures(rows.back(), of.back(), beside);
    tasks.push_back({path});
    for (const eval::TaskSummary& summary : of) tasks.back().push_back(mean_text(summary.accuracy));
  };
  for (size_t i = 0; i < paths.size(); ++i) add(paths[i], summaries[i], baseline != nullptr);
  if (baseline != nullptr) {
    add(baseline_path, *baseline, false);
    rows.back().push_back("baseline");
  }
  print_rows(rows);
  if (summaries.front().size() == 1) return;
  std::cout << '\n';
  print_rows(tasks);
}

TaskJson json_of(const eval::TaskSummary& s, bool beside) {
  TaskJson json = {{"items", s.num_items},
                   {"accuracy", s.accuracy.value},
                   {"accuracy_stderr", s.accuracy.std_error}};
  if (s.num_choice > 0) {
    json["choice_items"] = s.num_choice;
    json["accuracy_normalised"] = s.accuracy_normalised.value;
    json["accuracy_normalised_stderr"] = s.accuracy_normalised.std_error;
  }
  if (!beside) return json;
  json["flips"] = {
      {"right_to_wrong", s.lost}, {"wrong_to_right", s.gained}, {"changed", s.changed}};
  if (s.num_likelihoods == 0) return json;
  json["logprob_change"] = s.logprob_change.value;
  json["logprob_change_stderr"] = s.logprob_change.std_error;
  json["kl"] = s.kl.value;
  json["kl_stderr"] = s.kl.std_error;
  return json;
}

// All items, and the tasks under `tasks` where there are several.
TaskJson json_of(const std::string& path, const Summaries& summaries, bool beside) {
  TaskJson json = {{"model", path}};
  json.update(json_of(summaries.back(), beside));
  if (summaries.size() == 1) return json;
  json["tasks"] = TaskJson::object();
  for (size_t i = 0; i + 1 < summaries.size(); ++i)
    json["tasks"][summaries[i].task] = json_of(summaries[i], beside);
  return json;
}

}  // namespace

void run_eval_tasks(const TaskFlags& flags, const std::vector<std::string>& model_paths,
                    const std::string& baseline_path, eval::Arithmetic arithmetic, hf::Bos bos,
                    bool json, const ProgressStyle& progress_style) {
  if (job().size() > 1)
    throw Error(ErrorCode::kUsage, {.what = "tasks are not shared among ranks",
                                    .where = "--tasks",
                                    .fix = "run laos eval --tasks without mpirun"});
  const std::vector<hf::TaskItem> items = hf::read_task_items(tasks_file(flags.tasks));
  std::vector<std::unique_ptr<eval::EvalModel>> models;
  std::vector<eval::PairEncoder> encoders;
  std::vector<std::vector<eval::EncodedItem>> encoded;
  const auto open = [&](const std::string& path, eval::Arithmetic how) {
    models.push_back(eval::open_eval_model(path, how));
    encoders.emplace_back(path, bos);
    encoded.push_back(eval::encode_items(items, encoders.back(),
                                         models.back()->config().max_position_embeddings));
  };
  for (const std::string& path : model_paths) open(path, arithmetic);
  const bool beside = !baseline_path.empty();
  if (beside) open(baseline_path, eval::Arithmetic::kExact);
  for (size_t m = 0; beside && m < model_paths.size(); ++m)
    if (encoded[m] != encoded.back())
      throw Error(ErrorCode::kShape, {.what = "the baseline reads the items as other tokens",
                                      .where = model_paths[m],
                                      .fix = "compare checkpoints of the same model"});

  std::vector<std::unique_ptr<OverflowReport>> overflows;
  for (size_t m = 0; m < model_paths.size(); ++m)
    overflows.push_back(std::make_unique<OverflowReport>(model_paths[m], *models[m]));
  TerminalProgress progress(progress_style, !progress_style.empty() || stderr_is_terminal());
  std::vector<Summaries> summaries;
  Summaries base_summaries;
  // With a baseline all run together; else each by itself, whose tokenizer may be its own.
  const size_t at_once = beside ? model_paths.size() : 1;
  for (size_t first = 0; first < model_paths.size(); first += at_once) {
    std::vector<const eval::EvalModel*> some;
    for (size_t m = first; m < first + at_once; ++m) some.push_back(models[m].get());
    bool begun = false;
    const std::vector<eval::TaskAnswers> answers = eval::run_tasks(
        some, beside ? models.back().get() : nullptr, items, encoded[first],
        encoders[first].tokenizer(),
        {.max_new_tokens = flags.max_new_tokens,
         .stop_ids = hf::read_eos_token_ids(model_paths[first])},
        [&](int64_t done, int64_t total) {
          if (!std::exchange(begun, true))
            progress.begin(at_once == 1 ? "tasks " + model_paths[first] : "tasks", total);
          progress.step(done, "");
        });
    for (size_t m = 0; m < at_once; ++m)
      summaries.push_back(
          eval::summarize_tasks(items, answers[m], beside ? &answers.back() : nullptr));
    if (beside) base_summaries = eval::summarize_tasks(items, answers.back(), nullptr);
  }
  progress.finish();
  const Summaries* baseline = beside ? &base_summaries : nullptr;
  if (!json) {
    if (summaries.size() == 1)
      print_tasks(summaries.front(), baseline);
    else
      print_checkpoints(model_paths, summaries, baseline, baseline_path);
    return;
  }
  TaskJson list = TaskJson::array();
  for (size_t m = 0; m < summaries.size(); ++m)
    list.push_back(json_of(model_paths[m], summaries[m], beside));
  TaskJson object = list.size() == 1 ? TaskJson(list.front()) : TaskJson{{"models", list}};
  if (beside) object["baseline"] = json_of(baseline_path, base_summaries, false);
  std::cout << object.dump(2, ' ', false, TaskJson::error_handler_t::replace) << '\n';
}

}  // namespace laos::cli
