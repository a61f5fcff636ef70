#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "recipe/glob.h"
#include "recipe/recipe.h"

namespace laos::recipe {
namespace {

// Patterns of one list, expanded once for all names.
class PatternSet {
 public:
  PatternSet(const std::vector<Pattern>& patterns, size_t& num_alternatives) {
    for (const Pattern& pattern : patterns) {
      entries_.push_back({&pattern, expand(pattern)});
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
      : strategies_(strategies), names_(names) {}

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
    PatternSet include(strategy.include, num_alternatives_);
    PatternSet exclude(strategy.exclude, num_alternatives_);
    std::map<size_t, Hits> later_hits;  // by the strategy that decided earlier
    for (const std::string& name : names_) {
      if (!include.contains(name) || exclude.contains(name)) continue;
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
  Assignment assignment_;
  size_t num_alternatives_ = 0;
  int num_suggestions_ = 0;
};

}  // namespace

Assignment assign(const std::vector<Strategy>& strategies, const std::vector<std::string>& names) {
  return Assigner(strategies, names).run();
}

}  // namespace laos::recipe
