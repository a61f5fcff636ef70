// tokenizer.json, and texts through what was read.
#include "hf/tokenizer.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace laos;
  static const auto path = fuzz::directory() / "tokenizer.json";
  static const std::string texts[] = {
      "In the beginning was the word.\r\n\t  It's 1234 \xc3\xa9 e\xcc\x81 \xe4\xb8\xad\xe6\x96\x87 "
      "\xf0\x9f\x98\x80<|endoftext|> end",
      std::string(300, 'a') + "b" + std::string(300, ' ') + "c"};
  fuzz::write_file(path, fuzz::text_of(data, size));
  fuzz::expect_answer([&] {
    const hf::Tokenizer tokenizer = hf::Tokenizer::load(fuzz::directory().path());
    for (const std::string& text : texts)
      fuzz::expect_answer([&] {
        const std::vector<int32_t> ids = tokenizer.encode(text);
        for (const int32_t id : ids) LAOS_FUZZ_REQUIRE(id >= 0 && id < tokenizer.vocab_size());
        (void)tokenizer.decode(ids);
      });
  });
  return 0;
}
