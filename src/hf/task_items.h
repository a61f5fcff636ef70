// Questions with known answers, which tell what a model can do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace laos::hf {

enum class TaskKind {
  kChoice,    // which of the choices is likeliest behind the question
  kCloze,     // whether what follows the context, token by token the likeliest, is the target
  kGenerate,  // whether the line that the model writes is the answer
};

struct TaskItem {
  TaskKind kind = TaskKind::kChoice;
  std::string task = {};                  // the group whose results are told together; may be empty
  std::string context = {};               // `question`, `context` or `prompt`
  std::vector<std::string> answers = {};  // the choices, or the one target or answer
  size_t right = 0;                       // of the choices
  std::string delimiter = {};             // between the context and an answer
  std::string where = {};                 // "FILE:LINE"
};

// Of JSON lines (a DataFile), an object a line (docs/evaluation.md). Throws Error(kData) naming
// every line and what it lacks, like problems as one; Error(kData) where there is no item or more
// than 1,000,000; Error as DataFile.
std::vector<TaskItem> read_task_items(const std::filesystem::path& name);

}  // namespace laos::hf
