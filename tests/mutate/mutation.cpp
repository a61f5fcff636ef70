#include "mutation.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace laos::mutate {
namespace {

// What stands between quotes, or between blanks and punctuation: [begin, end).
struct Word {
  size_t begin, end;
};

std::vector<Word> words_of(std::string_view text, bool (*belongs)(unsigned char)) {
  std::vector<Word> words;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && belongs(static_cast<unsigned char>(text[end]))) ++end;
    if (end > i) words.push_back({i, end});
    i = end + 1;
  }
  return words;
}

bool is_word(unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; }
bool is_number(unsigned char c) { return std::isdigit(c); }

constexpr std::array kNumbers = {"0",
                                 "-1",
                                 "1",
                                 "2",
                                 "3",
                                 "7",
                                 "255",
                                 "65536",
                                 "2147483647",
                                 "2147483648",
                                 "4294967296",
                                 "9223372036854775807",
                                 "9223372036854775808",
                                 "18446744073709551615",
                                 "99999999999999999999999",
                                 "1e308",
                                 "1e999",
                                 "-1e-400",
                                 "0.5",
                                 "null",
                                 "true",
                                 "\"4\"",
                                 "[]",
                                 "{}"};
constexpr std::array kPieces = {"\"",
                                "\\",
                                "{",
                                "}",
                                "[",
                                "]",
                                ",",
                                ":",
                                "\n",
                                "\r",
                                "\t",
                                " ",
                                "-",
                                "*",
                                "&a ",
                                "*a",
                                "<<: ",
                                "!!int ",
                                "#",
                                "'",
                                "|",
                                ">",
                                "../",
                                "/dev/zero",
                                "\xff",
                                "\xc3",
                                "\xed\xa0\x80",
                                "\x1b[31m",
                                "\\ud800",
                                "\\u0000",
                                "NaN",
                                "Infinity",
                                "nan",
                                ".inf",
                                "\xef\xbb\xbf",
                                "%s%n",
                                "(a+)+b",
                                "{0..9}{0..9}{0..9}",
                                "[!",
                                "//",
                                "/*"};

template <class List>
std::string one_of(const List& list, Random& random) {
  return std::string(list[below(random, list.size())]);
}

// Once.
void damage(std::string& bytes, const std::vector<std::string>& words, size_t focus,
            Random& random) {
  const bool in_focus = focus > 0 && below(random, 8) != 0;
  const size_t size = in_focus ? std::min(focus, bytes.size()) : bytes.size();
  if (size == 0) {
    bytes += one_of(kPieces, random);
    return;
  }
  const size_t at = below(random, size);
  const size_t length =
      std::min(size - at, size_t{1} + below(random, size_t{1} << below(random, 10)));
  const auto replace_word = [&](bool (*belongs)(unsigned char), auto&& with) {
    const std::vector<Word> all = words_of(std::string_view(bytes).substr(0, size), belongs);
    if (all.empty()) return;
    const Word word = all[below(random, all.size())];
    bytes.replace(word.begin, word.end - word.begin, with(all));
  };
  switch (below(random, 12)) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(random, 8)));
      break;
    case 1:
      bytes[at] = static_cast<char>(random());
      break;
    case 2:
      bytes.erase(at, length);
      break;
    case 3:
      bytes.insert(at, bytes.substr(at, length));
      break;
    case 4: {
      const std::string piece = bytes.substr(at, length);
      bytes.erase(at, length);
      bytes.insert(below(random, bytes.size() + 1), piece);
      break;
    }
    case 5:
      bytes.resize(at);
      break;
    case 6:
      bytes.insert(at, one_of(kPieces, random));
      break;
    case 7: {
      const std::string piece = one_of(kPieces, random);
      std::string many;
      for (size_t i = below(random, 2000); i > 0; --i) many += piece;
      bytes.insert(at, many);
      break;
    }
    case 8:
    case 9:
      replace_word(is_number, [&](const auto&) { return one_of(kNumbers, random); });
      break;
    case 10:
      replace_word(is_word, [&](const std::vector<Word>& all) {
        const Word other = all[below(random, all.size())];
        return bytes.substr(other.begin, other.end - other.begin);
      });
      break;
    default:
      if (!words.empty()) replace_word(is_word, [&](const auto&) { return one_of(words, random); });
  }
}

}  // namespace

std::string damaged(std::string bytes, const std::vector<std::string>& words, size_t focus,
                    Random& random) {
  for (size_t i = 1 + below(random, 4); i > 0; --i) damage(bytes, words, focus, random);
  return bytes;
}

}  // namespace laos::mutate
