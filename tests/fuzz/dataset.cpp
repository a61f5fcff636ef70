// A dataset, to calibrate or to evaluate on. The first byte says which kind of file it is.
#include <array>

#include "core/threads.h"
#include "fuzz.h"
#include "hf/dataset.h"
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
  static constexpr std::array kSuffixes = {".jsonl", ".json", ".txt"};
  if (size == 0) return 0;
  const auto path =
      fuzz::directory() / (std::string("data") + kSuffixes[data[0] % kSuffixes.size()]);
  fuzz::write_file(path, fuzz::text_of(data + 1, size - 1));
  fuzz::expect_answer([&] {
    const auto samples = hf::load_samples(path, tokenizer, 16);
    LAOS_FUZZ_REQUIRE(!samples.empty());
    for (const auto& sample : samples) {
      LAOS_FUZZ_REQUIRE(!sample.empty());
      for (const int32_t id : sample) LAOS_FUZZ_REQUIRE(id >= 0 && id < tokenizer.vocab_size());
    }
  });
  fuzz::expect_answer([&] {
    const hf::Documents documents = hf::load_documents(path, fuzz::directory() / "model");
    LAOS_FUZZ_REQUIRE(!documents.ids.empty());
    for (const auto& ids : documents.ids) {
      LAOS_FUZZ_REQUIRE(!ids.empty());
      for (const int32_t id : ids) LAOS_FUZZ_REQUIRE(id >= 0);
    }
  });
  return 0;
}
