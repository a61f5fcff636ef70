#include "io/own_file.h"

#include <algorithm>
#include <atomic>
#include <system_error>

#include "core/error.h"

namespace laos::io {

namespace fs = std::filesystem;

namespace {
std::atomic<bool> links_are_trusted = false;
}  // namespace

void follow_links(bool trusted) noexcept { links_are_trusted = trusted; }

void require_own_file(const fs::path& path, const fs::path& model_directory) {
  std::error_code error;
  if (links_are_trusted || !fs::is_symlink(path, error)) return;
  const auto is_within = [](const fs::path& inner, const fs::path& outer) {
    return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first ==
           outer.end();
  };
  const fs::path target = fs::canonical(path, error);
  if (!error) {
    const fs::path& parent = model_directory.empty() ? path.parent_path() : model_directory;
    const fs::path directory = fs::canonical(parent.empty() ? "." : parent, error);
    const fs::path snapshots = directory.parent_path();
    if (!error && is_within(target, directory)) return;
    if (!error && snapshots.filename() == "snapshots" &&
        is_within(target, snapshots.parent_path() / "blobs"))
      return;
  }
  throw Error(ErrorCode::kIo, {.what = "the link does not lead to a file of the model directory",
                               .where = path.string(),
                               .fix = "put the file itself there, or say --follow-links if "
                                      "the links of this directory can be trusted"});
}

}  // namespace laos::io
