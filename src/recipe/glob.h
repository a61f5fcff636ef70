// Name patterns of recipes: as fnmatch of Python matches them, after braces are expanded.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace laos::recipe {

// A pattern with more alternatives than this is refused.
inline constexpr size_t kMaxAlternatives = 1000;
// So is a recipe whose patterns have more than this together.
inline constexpr size_t kMaxTotalAlternatives = 100'000;

// All alternatives of a pattern with braces, in the order they are written: {a,b}, {1..5},
// {01..10}, {2..10..2}, {a..d}, nested, possibly empty ({,3}). Braces around a single item stay
// literal, and so do braces without a partner, `\{` and `${`. Escapes are kept for matches_glob.
// Throws Error(kRecipe) above kMaxAlternatives alternatives, before it builds them.
std::vector<std::string> expand_braces(std::string_view pattern);

// Whole-string, case-sensitive match of an expanded pattern: `*` any run of characters (dots and
// slashes too), `?` one character, [class], [!class], `\c` the character itself. None of the three
// wildcards matches a dot that begins the name. Characters are those of UTF-8. Takes at most the
// product of both lengths.
bool matches_glob(std::string_view expanded, std::string_view name) noexcept;

// True when `name` equals `pattern` literally or matches one of its expansions. Throws as
// expand_braces.
bool matches(std::string_view pattern, std::string_view name);

}  // namespace laos::recipe
