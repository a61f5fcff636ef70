#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <system_error>

#include "core/error.h"
#include "recipe/glob.h"
#include "recipe/recipe.h"

namespace laos::recipe {
namespace {

// The parts of a name between its dots.
std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts = {""};
  for (const char c : name)
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

std::optional<int64_t> number_in(const std::string& part) {
  int64_t number = 0;
  const char* const end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, number);
  return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

// Decoder layers are the numbers that names have between dots, counted from 0.
int64_t count_layers(const std::vector<std::string>& names) {
  int64_t count = 0;
  for (const std::string& name : names)
    for (const std::string& part : parts_of(name))
      if (const auto number = number_in(part)) count = std::max(count, *number + 1);
  return count;
}

// An alternative where layers counted from the end (-1 is the last) are counted from the front.
// Appends the numbers that are no layer of the model to `missing`.
std::string with_layers_from_the_front(const std::string& alternative, int64_t num_layers,
                                       std::vector<int64_t>& missing) {
  std::string result;
  for (const std::string& part : parts_of(alternative)) {
    std::optional<int64_t> number = number_in(part);
    const bool is_layer = number && -num_layers <= *number && *number < num_layers;
    if (number && !is_layer) missing.push_back(*number);
    result += (is_layer && *number < 0 ? std::to_string(*number + num_layers) : part) + ".";
  }
  result.pop_back();
  return result;
}

// Patterns of one list, expanded once for all names.
class PatternSet {
 public:
  // `num_layers` of the model; 0: the names have no layers, and any number may stand in a pattern.
  PatternSet(const std::vector<Pattern>& patterns, int64_t num_layers, size_t& num_alternatives,
             std::vector<Problem>& problems) {
    for (const Pattern& pattern : patterns) {
      entries_.push_back({&pattern, expand(pattern)});
      if (num_layers > 0) find_layers(entries_.back(), num_layers, problems);
      num_alternatives += entries_.back().alternatives.size();
      if (num_alternatives > kMaxTotalAlternatives) {
        throw Error(ErrorCode::kRecipe,
                    {.what = "the patterns up to here expand to more than " +
                             std::to_string(kMaxTotalAlternatives) + " alternatives",
                     .where = pattern.location.text(),
                     .fix = "use fewer or shorter braces, or a `*` in their place"});
      }
    }
  }

  // Whether `name` is in the set. Remembers which pattern decided it: the first that matches.
  bool contains(const std::string& name) {
    for (Entry& entry : entries_) {
      if (!entry.matches(name)) continue;
      entry.is_used = true;
      return true;
    }
    return false;
  }

  struct Entry {
    const Pattern* pattern;
    std::vector<std::string> alternatives;
    bool is_used = false;

    bool matches(const std::string& name) const {
      return pattern->text == name || std::any_of(alternatives.begin(), alternatives.end(),
                                                  [&](const std::string& alternative) {
                                                    return matches_glob(alternative, name);
                                                  });
    }
  };
  const std::vector<Entry>& entries() const noexcept { return entries_; }

 private:
  static std::vector<std::string> expand(const Pattern& pattern) {
    try {
      return expand_braces(pattern.text);
    } catch (const Error& error) {
      Problem problem = error.problems().front();
      problem.where = pattern.location.text();
      throw Error(error.code(), std::move(problem));
    }
  }

  static void find_layers(Entry& entry, int64_t num_layers, std::vector<Problem>& problems) {
    std::vector<int64_t> missing;
    for (std::string& alternative : entry.alternatives)
      alternative = with_layers_from_the_front(alternative, num_layers, missing);
    if (missing.empty()) return;
    const std::string more =
        missing.size() == 1 ? "" : " and " + std::to_string(missing.size() - 1) + " more";
    problems.push_back({.what = "pattern `" + entry.pattern->text + "` names decoder layer " +
                                std::to_string(missing.front()) + more + ", and the model has " +
                                std::to_string(num_layers) + ", from 0 to " +
                                std::to_string(num_layers - 1),
                        .where = entry.pattern->location.text(),
                        .fix = "name layers of this model; -1 is its last one, * stands for all"});
  }

  std::vector<Entry> entries_;
};

bool has_wildcard(const std::string& text) {
  return text.find_first_of("*?[{\\") != std::string::npos;
}

// The existing name a pattern was probably meant to match: the whole name for a literal pattern,
// its last part for one like `*.upproj`. "" when nothing is near.
std::string nearest_existing(const std::string& pattern, const std::vector<std::string>& names) {
  if (!has_wildcard(pattern)) return nearest_name(pattern, names);
  const auto last_part = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  const std::string wanted = last_part(pattern);
  if (wanted.empty() || has_wildcard(wanted)) return "";
  std::set<std::string> parts;
  for (const std::string& name : names) parts.insert(last_part(name));
  if (parts.contains(wanted)) return "";  // the mistake is elsewhere
  return nearest_name(wanted, {parts.begin(), parts.end()});
}

class Assigner {
 public:
  Assigner(const std::vector<Strategy>& strategies, const std::vector<std::string>& names)
      : strategies_(strategies), names_(names), num_layers_(count_layers(names)) {}

  Assignment run() {
    for (size_t i = 0; i < strategies_.size(); ++i) assign_strategy(i);
    return std::move(assignment_);
  }

 private:
  struct Hits {
    size_t count = 0;
    std::string first;
  };

  void assign_strategy(size_t index) {
    const Strategy& strategy = strategies_[index];
    std::vector<Problem>& problems = assignment_.problems;
    PatternSet include(strategy.include, num_layers_, num_alternatives_, problems);
    PatternSet exclude(strategy.exclude, num_layers_, num_alternatives_, problems);
    std::map<size_t, Hits> later_hits;  // by the strategy that decided earlier
    for (const std::string& name : names_) {
      if (!include.contains(name)) continue;
      if (exclude.contains(name)) {
        assignment_.excluded.insert(name);
        continue;
      }
      const auto [found, is_new] = assignment_.strategy_of.try_emplace(name, index);
      if (is_new || found->second == index) continue;
      Hits& hits = later_hits[found->second];
      if (hits.count++ == 0) hits.first = name;
    }
    for (const auto& [earlier, hits] : later_hits) {
      assignment_.warnings.push_back(
          strategy.location.text() + ": also matches " + std::to_string(hits.count) +
          (hits.count == 1 ? " linear" : " linears") + " that " +
          strategies_[earlier].location.text() + " has decided (" + hits.first +
          (hits.count == 1 ? "" : ", ...") + "); the first strategy stays");
    }
    warn_unused(include);
    warn_unused(exclude);
  }

  void warn_unused(const PatternSet& patterns) {
    constexpr int kMaxSuggestions = 20;  // looking for near names takes longer than matching
    for (const PatternSet::Entry& entry : patterns.entries()) {
      const std::string& text = entry.pattern->text;
      if (entry.is_used || text == "*") continue;
      const bool matches_something =
          std::any_of(names_.begin(), names_.end(),
                      [&](const std::string& name) { return entry.matches(name); });
      std::string warning = entry.pattern->location.text() + ": pattern `" + text + "` ";
      if (matches_something) {
        warning +=
            "decides nothing: what it matches, an earlier pattern of the list matches, or the "
            "strategy "
            "does not include";
      } else {
        warning += "matches no linear of the model";
        const std::string nearest =
            num_suggestions_ < kMaxSuggestions ? nearest_existing(text, names_) : "";
        ++num_suggestions_;
        if (!nearest.empty()) warning += "; did you mean `" + nearest + "`?";
      }
      assignment_.warnings.push_back(std::move(warning));
    }
  }

  const std::vector<Strategy>& strategies_;
  const std::vector<std::string>& names_;
  const int64_t num_layers_;
  Assignment assignment_;
  size_t num_alternatives_ = 0;
  int num_suggestions_ = 0;
};

}  // namespace

Assignment assign(const std::vector<Strategy>& strategies, const std::vector<std::string>& names) {
  return Assigner(strategies, names).run();
}

}  // namespace laos::recipe
