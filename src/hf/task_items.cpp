#include "hf/task_items.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "core/collapse.h"
#include "core/error.h"
#include "core/words.h"
#include "hf/data_file.h"
#include "hf/json_file.h"

namespace laos::hf {
namespace {

constexpr size_t kMaxItems = 1'000'000;
constexpr int64_t kMaxItemValues = 10'000;

// What `kind` may say, and the keys of a context and what answers it.
struct KindOfTask {
  std::string_view name;
  TaskKind kind;
  std::string_view context_key, answer_key;
};
constexpr std::array kKindsOfTasks = {
    KindOfTask{"choice", TaskKind::kChoice, "question", "choices"},
    KindOfTask{"cloze", TaskKind::kCloze, "context", "target"},
    KindOfTask{"generate", TaskKind::kGenerate, "prompt", "answer"}};

bool is_blank_string(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

// Reads the object of one line; what is wrong goes to `problems`.
class ItemReader {
 public:
  ItemReader(const nlohmann::json& object, std::string where, CollapsedProblems& problems)
      : object_(object), where_(std::move(where)), problems_(problems) {}

  TaskItem read() {
    TaskItem item{.delimiter = " ", .where = where_};
    if (!object_.is_object()) {
      refuse("the line is no JSON object");
      return item;
    }
    const KindOfTask* kind = kind_of();
    if (kind == nullptr) return item;
    item.kind = kind->kind;
    item.task = optional_string("task", "");
    item.delimiter = optional_string("delimiter", " ");
    item.context = string_of(kind->context_key, *kind);
    if (item.kind == TaskKind::kChoice)
      read_choices(*kind, item);
    else
      item.answers.push_back(string_of(kind->answer_key, *kind));
    return item;
  }

 private:
  static std::string ticked(std::string_view name) { return "`" + std::string(name) + "`"; }

  void refuse(const std::string& what, const std::string& fix = "see docs/evaluation.md") {
    problems_.add({.what = what, .where = where_, .fix = fix});
  }

  const KindOfTask* kind_of() {
    const std::string name =
        optional_string("kind", std::string(kKindsOfTasks.front().name).c_str());
    std::vector<std::string_view> names;
    for (const KindOfTask& kind : kKindsOfTasks) {
      if (kind.name == name) return &kind;
      names.push_back(kind.name);
    }
    refuse("`kind` is none that laos knows", "write " + listed(names, "or", "`"));
    return nullptr;
  }

  std::string optional_string(std::string_view key, const char* otherwise) {
    const auto found = object_.find(key);
    if (found == object_.end() || found->is_null()) return otherwise;
    if (found->is_string()) return found->get<std::string>();
    refuse(ticked(key) + " is no string");
    return otherwise;
  }

  std::string string_of(std::string_view key, const KindOfTask& kind) {
    const auto found = object_.find(key);
    if (found == object_.end() || found->is_null()) {
      refuse("an item of kind " + std::string(kind.name) + " has no " + ticked(key));
      return {};
    }
    if (!found->is_string() || is_blank_string(found->get_ref<const std::string&>())) {
      refuse(ticked(key) + " is no string with something in it");
      return {};
    }
    return found->get<std::string>();
  }

  void read_choices(const KindOfTask& kind, TaskItem& item) {
    const auto choices = object_.find(kind.answer_key);
    if (choices == object_.end() || choices->is_null())
      return refuse("an item of kind choice has no `choices`");
    bool is_good = choices->is_array() && choices->size() >= 2;
    for (size_t i = 0; is_good && i < choices->size(); ++i) {
      const nlohmann::json& choice = (*choices)[i];
      is_good = choice.is_string() && !is_blank_string(choice.get_ref<const std::string&>());
      if (is_good) item.answers.push_back(choice.get<std::string>());
    }
    if (!is_good) return refuse("`choices` is no list of two or more texts");
    if (std::set<std::string>(item.answers.begin(), item.answers.end()).size() !=
        item.answers.size())
      return refuse("two choices are the same");
    const auto answer = object_.find("answer");
    if (answer == object_.end() || answer->is_null())
      return refuse("an item of kind choice has no `answer`");
    const auto count = static_cast<int64_t>(item.answers.size());
    if (answer->is_number_integer()) {
      const auto index = answer->get<int64_t>();
      if (index < 0 || index >= count)
        return refuse("`answer` is the number of no choice: they count from 0");
      item.right = static_cast<size_t>(index);
    } else if (answer->is_string()) {
      const auto found = std::find(item.answers.begin(), item.answers.end(),
                                   answer->get_ref<const std::string&>());
      if (found == item.answers.end()) return refuse("`answer` is none of the choices");
      item.right = static_cast<size_t>(found - item.answers.begin());
    } else {
      refuse("`answer` is neither the number of a choice nor its text");
    }
  }

  const nlohmann::json& object_;
  std::string where_;
  CollapsedProblems& problems_;
};

}  // namespace

std::vector<TaskItem> read_task_items(const std::filesystem::path& name) {
  const DataFile file(name);
  if (!file.source().key.empty())
    throw Error(ErrorCode::kData, {.what = "there is no such file, and items have no column",
                                   .where = name.string(),
                                   .fix = "name a file of JSON lines"});
  std::vector<TaskItem> items;
  CollapsedProblems problems(1);
  std::string_view rest = file.bytes();
  for (int64_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (is_blank_string(line)) continue;
    const std::string where = file.name() + ":" + std::to_string(number);
    if (items.size() == kMaxItems)
      throw Error(ErrorCode::kData,
                  {.what = "the file has more than " + std::to_string(kMaxItems) + " items",
                   .where = where,
                   .fix = "use a part of it"});
    nlohmann::json object;
    try {
      object = parse_json<nlohmann::json>(std::string(line), where, kMaxItemValues);
    } catch (const Error& error) {
      problems.add({.what = error.problems().front().what,
                    .where = where,
                    .fix = "write one JSON object a line"});
      continue;
    }
    items.push_back(ItemReader(object, where, problems).read());
  }
  if (problems.count() > 0) throw Error(ErrorCode::kData, problems.list());
  if (items.empty())
    throw Error(ErrorCode::kData, {.what = "there is no item",
                                   .where = file.name(),
                                   .fix = "use a file with items, one JSON object a line"});
  return items;
}

}  // namespace laos::hf
