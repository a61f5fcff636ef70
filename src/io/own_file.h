// Links in a model directory.
#pragma once

#include <filesystem>

namespace laos::io {

// Throws Error(kIo) when `path` is a link that leads out of the model directory, which is
// `directory` or, where that is empty, the one it stands in. A link may lead to a file of the same
// directory or, in the hub's cache (snapshots/<revision>/name
// -> blobs/<hash>), of the same repository: a model directory must not make us read, and publish
// with what is written, other files of this machine. With follow_links, where the user trusts the
// directory, everything goes.
void require_own_file(const std::filesystem::path& path,
                      const std::filesystem::path& directory = {});

// Whether links may lead anywhere, for the whole program: --follow-links. Not at first.
void follow_links(bool trusted) noexcept;

}  // namespace laos::io
