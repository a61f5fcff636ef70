// Writes run.json and report.html of a made-up run. Arguments: directory, number of layers,
// iterations a layer.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "report/run_record.h"
#include "support/record.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: make_report DIR LAYERS ITERATIONS\n", stderr);
    return 2;
  }
  std::filesystem::create_directories(argv[1]);
  laos::report::write_run(argv[1],
                          laos::test::run_record(std::atoll(argv[2]), std::atoll(argv[3])));
  return 0;
}
