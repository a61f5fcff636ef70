// A dataset, to calibrate or to evaluate on, and prompts. The first byte says which kind of file it
// is.
#include <array>

#include "core/threads.h"
#include "fuzz.h"
#include "hf/dataset.h"
#include "hf/records.h"
#include "support/synthetic.h"

namespace {

using namespace laos;

hf::Tokenizer prepare() {
  set_num_threads(1);
  test::SyntheticModel model;
  model.config = test::qwen3_config("tiny", 1);
  test::write_synthetic(model, fuzz::directory() / "model");
  return hf::Tokenizer::load(fuzz::directory() / "model");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hf::Tokenizer tokenizer = prepare();
  static constexpr std::array kSuffixes = {".jsonl", ".json", ".txt", ".csv", ".jsonl.gz"};
  if (size == 0) return 0;
  const auto path =
      fuzz::directory() / (std::string("data") + kSuffixes[data[0] % kSuffixes.size()]);
  fuzz::write_file(path, fuzz::text_of(data + 1, size - 1));
  for (const int64_t seq_len : {int64_t{0}, int64_t{16}})
    fuzz::expect_answer([&] {
      const hf::Dataset dataset =
          hf::load_dataset(path, fuzz::directory() / "model", {.seq_len = seq_len}, &tokenizer);
      LAOS_FUZZ_REQUIRE(!dataset.samples.empty());
      for (const auto& sample : dataset.samples) {
        LAOS_FUZZ_REQUIRE(!sample.empty());
        if (seq_len > 0) LAOS_FUZZ_REQUIRE(std::ssize(sample) <= seq_len);
        for (const int32_t id : sample) LAOS_FUZZ_REQUIRE(id >= 0);
      }
    });
  fuzz::expect_answer([&] {
    for (const hf::Record& record : hf::read_records(path, hf::RecordPart::kQuestion).list)
      LAOS_FUZZ_REQUIRE(!record.where.empty());
  });
  return 0;
}
