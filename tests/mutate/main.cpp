// mutate: runs laos on damaged checkpoints, recipes and datasets. Whatever the file, the program
// ends by itself within ten seconds, with a message of what, where and fix and a non-zero exit
// code, or with a result that `laos inspect --verify` finds whole; what failed leaves no
// checkpoint.
//   mutate --laos PROGRAM --cases N [--first I] [--seed S] [--sanitized] [--keep DIR]
// The same seed and case give the same files and command.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "mutation.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::mutate {
namespace {

namespace fs = std::filesystem;

constexpr auto kMaxTime = std::chrono::seconds(10);
constexpr rlim_t kMaxAddressSpace = rlim_t{6} << 30;

const char* const kRecipes[] = {
    R"(apiversion: modelslim_v1
metadata: {config_id: quick, score: 10, label: {w_bit: 4, a_bit: 4}, verified_model_types: [tiny]}
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround, ext: {scale_dtype: bfloat16}}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 1, layer_type: [up_proj]}]
      dataset: data.jsonl
  process:
    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}
    - type: autoround_quant
      iters: 1
      strategies:
        - {qconfig: *w8, include: ["*self_attn*"]}
        - {qconfig: *w4, include: ["model.layers.{0..0}.mlp.{gate,up}_proj"]}
  save: [{type: ascendv1_saver, part_file_size: 4}]
  dataset: data.jsonl
)",
    R"(apiversion: modelslim_v1
spec:
  process:
    - {type: quarot, online: false, block_size: -1, max_tp_size: 1}
    - {type: head_rotation, steps: 20}
    - {type: iter_smooth, alpha: 0.5, enable_subgraph_type: [ov, up-down]}
    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
        act: {scope: per_tensor, dtype: int8, symmetric: false, method: minmax}
      include: ["*self_attn*"]
    - type: gptq_quant
      strategies:
        - qconfig:
            weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
            act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
          include: ["*.mlp.*_proj"]
          exclude: ["*.down_proj"]
  save: [{type: ascendv1_saver}]
  dataset: data.json
)"};

const std::map<std::string, std::string> kData = {
    {"data.jsonl",
     "{\"inputs_pretokenized\": \"In the beginning was the word\"}\n\n"
     "{\"ids\": [1, 2, 3], \"inputs_pretokenized\": \"and the word was with the others\"}\n"},
    {"data.json", "[\"In the beginning was the word\", \"and the word was with the others\"]\n"},
    {"ids.json", "[[1, 2, 3, 4], [5, 6, 7, 8, 9]]\n"},
    {"data.txt", "In the beginning was the word, and the word was with the others.\n"}};

std::string read(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

struct Outcome {
  bool in_time = true;
  int status = 0;
  double seconds = 0;
  std::string output;
};

class Program {
 public:
  Program(fs::path laos, fs::path log) : laos_(std::move(laos)), log_(std::move(log)) {}

  Outcome run(const std::vector<std::string>& arguments) const {
    std::vector<char*> argv = {const_cast<char*>(laos_.c_str())};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log_.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
    pid_t child = 0;
    const auto start = std::chrono::steady_clock::now();
    const auto elapsed = [&] { return std::chrono::steady_clock::now() - start; };
    if (::posix_spawn(&child, laos_.c_str(), &files, nullptr, argv.data(), environ) != 0)
      throw std::runtime_error("cannot start " + laos_.string());
    posix_spawn_file_actions_destroy(&files);
    Outcome outcome;
    while (::waitpid(child, &outcome.status, WNOHANG) == 0) {
      // Processor time, so that a busy machine does not look like a slow program.
      if (outcome.in_time && elapsed() > kMaxTime && cpu_seconds(child) > kMaxTime) {
        outcome.in_time = false;
        ::kill(child, SIGKILL);
      } else if (outcome.in_time && elapsed() > 12 * kMaxTime) {
        outcome.in_time = false;  // waits for what never comes
        ::kill(child, SIGKILL);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    outcome.seconds = std::chrono::duration<double>(elapsed()).count();
    outcome.output = read(log_);
    return outcome;
  }

 private:
  static std::chrono::duration<double> cpu_seconds(pid_t child) {
    std::string stat = read("/proc/" + std::to_string(child) + "/stat");
    std::istringstream fields(stat.substr(std::min(stat.size(), stat.rfind(')') + 1)));
    std::string skipped;
    for (int i = 0; i < 11; ++i) fields >> skipped;
    double user = 0, system = 0;
    fields >> user >> system;
    return std::chrono::duration<double>((user + system) /
                                         static_cast<double>(::sysconf(_SC_CLK_TCK)));
  }

  fs::path laos_, log_;
};

// What is good before anything is damaged.
class Bases {
 public:
  Bases(const fs::path& directory, const Program& laos) : directory_(directory) {
    hf::Config config = test::qwen3_config("tiny", 1);
    config.hidden_size = 32;
    config.intermediate_size = 64;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 1;
    config.head_dim = 16;
    test::write_synthetic({.config = config, .seed = 7}, directory / "model");
    test::write_synthetic({.config = config, .seed = 7, .max_shard_bytes = 20'000},
                          directory / "shards");
    for (const auto& [name, text] : kData) write(directory / name, text);
    for (size_t i = 0; i < std::size(kRecipes); ++i) {
      const std::string name = "recipe" + std::to_string(i) + ".yaml";
      write(directory / name, kRecipes[i]);
      const std::string out = "w4a4_" + std::to_string(i);
      const Outcome outcome =
          laos.run(quant(directory / "model", directory / name, directory / out));
      if (outcome.status != 0) throw std::runtime_error("no base: " + outcome.output);
    }
  }

  static std::vector<std::string> quant(const fs::path& model, const fs::path& recipe,
                                        const fs::path& out) {
    return {"quant",         "--model-type",  "tiny",        "--model-path", model.string(),
            "--config-path", recipe.string(), "--save-path", out.string()};
  }

  const fs::path& directory() const { return directory_; }

 private:
  fs::path directory_;
};

struct Case {
  std::string kind;  // what is damaged
  fs::path file;
  std::vector<std::string> command;
  std::optional<fs::path> out;  // where a checkpoint may appear
};

std::vector<fs::path> files_in(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// A fresh copy of the bases in `work`, one file of it damaged.
Case make_case(const Bases& bases, const fs::path& work, Random& random) {
  fs::remove_all(work);
  fs::copy(bases.directory(), work, fs::copy_options::recursive);
  const auto pick = [&](const std::vector<fs::path>& list) {
    return list[below(random, list.size())];
  };
  fs::path recipe =
      work / ("recipe" + std::to_string(below(random, std::size(kRecipes))) + ".yaml");
  fs::path model = work / (below(random, 2) == 0 ? "model" : "shards");
  Case result;
  const fs::path out = work / "out";
  const auto quant = [&] {
    result.command = Bases::quant(model, recipe, out);
    result.out = out;
    if (below(random, 3) == 0) result.command.push_back("--dry-run");
  };
  switch (below(random, 5)) {
    case 0:
      result.kind = "checkpoint";
      result.file = pick(files_in(model));
      if (below(random, 3) == 0)
        result.command = {"eval",
                          "--model-path",
                          model.string(),
                          "--text",
                          (work / "data.txt").string(),
                          "--seq-len",
                          "16"};
      else
        quant();
      break;
    case 1:
      result.kind = "recipe";
      result.file = recipe;
      quant();
      break;
    case 2: {
      result.kind = "dataset";
      if (below(random, 2) == 0) {
        result.file = work / (recipe.stem() == "recipe0" ? "data.jsonl" : "data.json");
        quant();
        break;
      }
      auto data = kData.begin();
      std::advance(data, static_cast<std::ptrdiff_t>(below(random, kData.size())));
      result.file = work / data->first;
      result.command = {"eval",   "--model-path",       model.string(),
                        "--text", result.file.string(), "--seq-len",
                        "16"};
      break;
    }
    case 3: {
      result.kind = "quantized checkpoint";
      const fs::path quantized =
          work / ("w4a4_" + std::to_string(below(random, std::size(kRecipes))));
      result.file = pick(files_in(quantized));
      switch (below(random, 4)) {
        case 0:
          result.command = {"inspect", quantized.string()};
          break;
        case 1:
          result.command = {"inspect", "--verify", quantized.string()};
          break;
        case 2:
          result.command = {"check", quantized.string(), "--baseline", model.string()};
          break;
        default:
          result.command = {"eval",
                            "--model-path",
                            quantized.string(),
                            "--text",
                            (work / "data.txt").string(),
                            "--seq-len",
                            "16"};
      }
      break;
    }
    default:
      // The report and the record of a run are read again.
      result.kind = "run record";
      result.file = work / "w4a4_0" / "run.json";
      result.command = {"report", (work / "w4a4_0").string()};
  }
  return result;
}

void damage_file(const Case& test_case, Random& random) {
  static const std::vector<std::string> words = {"model.layers.0.mlp.up_proj.weight",
                                                 "lm_head.weight",
                                                 "F32",
                                                 "BF16",
                                                 "I8",
                                                 "F8_E4M3",
                                                 "W4A4_DYNAMIC",
                                                 "FLOAT",
                                                 "W8A8",
                                                 "int4",
                                                 "int8",
                                                 "per_token",
                                                 "per_group",
                                                 "per_channel",
                                                 "linear_quant",
                                                 "autoround_quant",
                                                 "adapt_rotation",
                                                 "quarot",
                                                 "group",
                                                 "stage",
                                                 "online",
                                                 "Qwen3ForCausalLM",
                                                 "data.txt",
                                                 "data_offsets",
                                                 "shape",
                                                 "Regex",
                                                 "NFC",
                                                 "BPE"};
  const fs::path& file = test_case.file;
  std::string bytes = read(file);
  size_t focus = 0;
  if (file.extension() == ".safetensors" && bytes.size() > 8) {
    uint64_t header = 0;
    for (size_t i = 0; i < 8; ++i)
      header |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    focus = static_cast<size_t>(std::min<uint64_t>(bytes.size(), header + 8));
  }
  switch (below(random, 40)) {
    case 0:
      fs::remove(file);
      return;
    case 1:
      fs::remove(file);
      fs::create_directory(file);
      return;
    case 2:
      fs::remove(file);
      fs::create_symlink(below(random, 2) == 0 ? "/dev/zero" : file.filename().string(), file);
      return;
    case 3:
      write(file, "");
      return;
    default:
      write(file, damaged(std::move(bytes), words, focus, random));
  }
}

// What is wrong with what the program did, or "".
std::string judge(const Case& test_case, const Outcome& outcome, const Program& laos,
                  bool sanitized) {
  const std::string& output = outcome.output;
  if (!outcome.in_time) return "takes more than 10 s";
  if (!WIFEXITED(outcome.status))
    return "ended by signal " + std::to_string(WTERMSIG(outcome.status));
  const int code = WEXITSTATUS(outcome.status);
  if (code != 0 && code != 1 && code != 2) return "exit code " + std::to_string(code);
  if (output.find("defect of laos") != output.npos) return "an error that says it is a defect";
  if (output.find("out of memory") != output.npos && !sanitized) return "out of memory";
  if (output.find("Sanitizer") != output.npos || output.find("runtime error:") != output.npos)
    return "a sanitizer's report";
  for (const char c : output)
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\r' && c != '\t')
      return "a control character in its output";
  if (code != 0) {
    const bool says_what = output.find("error: ") != output.npos ||
                           output.find("FAIL") != output.npos ||
                           output.find("broken") != output.npos;
    const bool says_more =
        output.find("fix: ") != output.npos || output.find("at:  ") != output.npos;
    if (!says_what || !says_more) return "fails without a message of what, where and fix";
  }
  if (!test_case.out) return "";
  const bool has_checkpoint = fs::exists(*test_case.out / "quant_model_description.json");
  const bool is_dry = test_case.command.back() == "--dry-run";
  if (code != 0 && has_checkpoint) return "failed, but there is a checkpoint";
  if (code == 0 && !is_dry) {
    const Outcome inspected = laos.run({"inspect", "--verify", test_case.out->string()});
    // A recipe may ask for what the format holds and the engine does not load.
    if (inspected.status != 0 && inspected.output.find("the engine") == inspected.output.npos)
      return "the checkpoint is not whole: " + inspected.output;
  }
  return "";
}

int run(const fs::path& program, uint64_t seed, int64_t first, int64_t cases, bool sanitized,
        const fs::path& keep) {
  const test::TemporaryDirectory directory;
  const Program laos(program, directory / "log");
  fs::create_directory(directory / "bases");
  const Bases bases(directory / "bases", laos);
  std::map<std::string, std::pair<int64_t, int64_t>> counts;  // kind -> refused, done
  double slowest = 0;
  int64_t failures = 0;
  for (int64_t i = first; i < first + cases; ++i) {
    std::seed_seq sequence{seed, static_cast<uint64_t>(i)};
    Random random(sequence);
    const Case test_case = make_case(bases, directory / "work", random);
    damage_file(test_case, random);
    const Outcome outcome = laos.run(test_case.command);
    slowest = std::max(slowest, outcome.seconds);
    auto& [refused, done] = counts[test_case.kind];
    ++(outcome.status == 0 ? done : refused);
    const std::string wrong = judge(test_case, outcome, laos, sanitized);
    if (wrong.empty()) continue;
    ++failures;
    std::cout << "case " << i << ", " << test_case.kind << " "
              << fs::relative(test_case.file, directory / "work").string() << ": " << wrong
              << "\n  laos";
    for (const std::string& argument : test_case.command) std::cout << ' ' << argument;
    std::cout << "\n" << outcome.output.substr(0, 3000) << std::endl;
    if (!keep.empty()) {
      fs::create_directories(keep);
      const fs::path copy = keep / ("case" + std::to_string(i));
      fs::remove_all(copy);
      fs::copy(directory / "work", copy,
               fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    }
  }
  for (const auto& [kind, count] : counts)
    std::cout << kind << ": " << count.first << " refused, " << count.second << " done\n";
  std::cout << cases << " cases, " << failures << " failures; the slowest took " << slowest
            << " s\n";
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace laos::mutate

int main(int argc, char** argv) {
  std::string program, keep;
  uint64_t seed = 1;
  int64_t first = 0, cases = 100;
  bool sanitized = false;
  CLI::App app("Runs laos on damaged files");
  app.add_option("--laos", program, "the program")->required();
  app.add_option("--cases", cases, "how many files to damage");
  app.add_option("--first", first, "number of the first case");
  app.add_option("--seed", seed, "another seed gives other cases");
  app.add_option("--keep", keep, "directory to keep the files of failing cases in");
  app.add_flag("--sanitized", sanitized, "the program is built with sanitizers: no memory limit");
  CLI11_PARSE(app, argc, argv);
  if (!sanitized) {
    const rlimit limit{laos::mutate::kMaxAddressSpace, laos::mutate::kMaxAddressSpace};
    ::setrlimit(RLIMIT_AS, &limit);  // for the program too
  }
  try {
    return laos::mutate::run(program, seed, first, cases, sanitized, keep);
  } catch (const std::exception& error) {
    std::cerr << "mutate: error: " << error.what() << '\n';
    return 2;
  }
}
