// Speed of the tokenizer on English text: bytes a second of one thread. LAOS_BENCH_TOKENIZER names
// the directory of another tokenizer than the bundled one.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "hf/records.h"
#include "hf/tokenizer.h"

namespace laos::hf {
namespace {

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

std::filesystem::path tokenizer_directory() {
  const char* other = std::getenv("LAOS_BENCH_TOKENIZER");
  return other ? std::filesystem::path(other) : kRoot / "models/qwen3-tiny";
}

std::vector<std::string> calibration_texts() {
  const std::filesystem::path file = kRoot / "calib/qwen3-tiny-calib.jsonl";
  std::vector<std::string> texts;
  for (Record& record : read_records(file, RecordPart::kAll).list)
    texts.push_back(std::move(record.text));
  return texts;
}

void encode(benchmark::State& state) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_directory());
  const std::vector<std::string> texts = calibration_texts();
  int64_t bytes = 0;
  for ([[maybe_unused]] auto _ : state)
    for (const std::string& text : texts) {
      benchmark::DoNotOptimize(tokenizer.encode(text));
      bytes += std::ssize(text);
    }
  state.SetBytesProcessed(bytes);
}
BENCHMARK(encode)->Unit(benchmark::kMillisecond);

void decode(benchmark::State& state) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_directory());
  std::vector<std::vector<int32_t>> samples;
  for (const std::string& text : calibration_texts()) samples.push_back(tokenizer.encode(text));
  int64_t bytes = 0;
  for ([[maybe_unused]] auto _ : state)
    for (const std::vector<int32_t>& ids : samples) bytes += std::ssize(tokenizer.decode(ids));
  state.SetBytesProcessed(bytes);
}
BENCHMARK(decode)->Unit(benchmark::kMillisecond);

void load(benchmark::State& state) {
  for ([[maybe_unused]] auto _ : state)
    benchmark::DoNotOptimize(Tokenizer::load(tokenizer_directory()).vocab_size());
}
BENCHMARK(load)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace laos::hf

BENCHMARK_MAIN();
