// tokenizer.json, tokenizer_config.json (what follows a line of "%%"), and texts through what was
// read.
#include "hf/tokenizer.h"
#include <algorithm>
#include <string>
#include <string_view>

#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace laos;
  static const auto path = fuzz::directory() / "tokenizer.json";
  static const std::string texts[] = {
      "In the beginning was the word.\r\n\t  It's 1234 \xc3\xa9 e\xcc\x81 \xe4\xb8\xad\xe6\x96\x87 "
      "\xf0\x9f\x98\x80<|endoftext|> end",
      std::string(300, 'a') + "b" + std::string(300, ' ') + "c"};
  static const auto config = fuzz::directory() / "tokenizer_config.json";
  static constexpr std::string_view kSeparator = "\n%%\n";
  const std::string input(fuzz::text_of(data, size));
  const size_t end = std::min(input.find(kSeparator), input.size());
  fuzz::write_file(path, input.substr(0, end));
  fuzz::write_file(config, end == input.size() ? "{}" : input.substr(end + kSeparator.size()));
  fuzz::expect_answer([&] {
    const hf::Tokenizer tokenizer = hf::Tokenizer::load(fuzz::directory().path());
    for (const std::string& text : texts)
      fuzz::expect_answer([&] {
        const std::vector<int32_t> ids = tokenizer.add_special(tokenizer.encode(text));
        for (const int32_t id : ids) LAOS_FUZZ_REQUIRE(id >= 0 && id < tokenizer.vocab_size());
        (void)tokenizer.decode(ids);
      });
  });
  return 0;
}
