// A job of one rank.
#pragma once

#include <unistd.h>

#include <cstdlib>

#include "cluster/cluster.h"

namespace laos::cluster {

class Alone : public Cluster {
 public:
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  const std::vector<std::string>& hosts() const noexcept override { return hosts_; }
  void barrier() override {}
  void broadcast(std::span<std::byte>) override {}
  std::vector<std::string> gather(const std::string& text) override { return {text}; }
  void exchange(const std::vector<Send>& sends, const std::vector<Receive>& receives) override {
    LAOS_ASSERT(sends.empty() && receives.empty());
  }
  Traffic traffic() const noexcept override { return {}; }
  void notify(const std::string&) override { LAOS_ASSERT(false); }
  std::vector<std::string> take_notices() override { return {}; }
  bool claim_failure() override { return true; }
  [[noreturn]] void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  static std::string host_name() {
    char name[256] = {};
    ::gethostname(name, sizeof name - 1);
    return name;
  }
  const std::vector<std::string> hosts_ = {host_name()};
};

}  // namespace laos::cluster
