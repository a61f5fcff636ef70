// Flags that say whether a text begins with the token for it.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/flags.h"
#include "hf/tokenizer.h"

namespace laos::cli {

struct BosFlags {
  bool add = false, omit = false;
  hf::Bos operator()() const {
    return add ? hf::Bos::kAdd : omit ? hf::Bos::kOmit : hf::Bos::kAsModel;
  }
};

inline void add_bos_flags(CLI::App& command, BosFlags& flags) {
  CLI::Option* add =
      command.add_flag(both_spellings("--add-bos"), flags.add,
                       "a text begins with the tokenizer's bos_token [as tokenizer.json says]");
  command.add_flag(both_spellings("--no-bos"), flags.omit, "a text does not begin with it")
      ->excludes(add);
}

}  // namespace laos::cli
