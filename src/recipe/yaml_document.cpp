#include "recipe/yaml_document.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <unordered_map>
#include <utility>

namespace laos::recipe {
namespace {

std::string position(const std::string& name, int line, int column) {
  return name + ":" + std::to_string(line) + ":" + std::to_string(column);
}

[[noreturn]] void refuse(std::string what, std::string where, std::string fix) {
  throw Error(ErrorCode::kRecipe,
              {.what = std::move(what), .where = std::move(where), .fix = std::move(fix)});
}

// Length of the UTF-8 sequence at `i`, 0 when there is no valid one.
size_t utf8_length(const std::string& text, size_t i) {
  const auto byte = [&](size_t k) { return k < text.size() ? static_cast<uint8_t>(text[k]) : 0; };
  const auto continues = [&](size_t k) { return (byte(k) & 0xC0) == 0x80; };
  if (byte(i) < 0x80) return 1;
  if (byte(i) >= 0xC2 && byte(i) < 0xE0) return continues(i + 1) ? 2 : 0;
  if (byte(i) >= 0xE0 && byte(i) < 0xF0) return continues(i + 1) && continues(i + 2) ? 3 : 0;
  if (byte(i) >= 0xF0 && byte(i) < 0xF5) {
    return continues(i + 1) && continues(i + 2) && continues(i + 3) ? 4 : 0;
  }
  return 0;
}

// yaml-cpp takes byte 4 for the end of the text and passes broken UTF-8 on; neither gets that far.
void require_text(const std::string& text, const std::string& name) {
  if (text.size() > kMaxYamlBytes) {
    refuse("the file holds " + std::to_string(text.size()) + " bytes, a recipe at most " +
               std::to_string(kMaxYamlBytes),
           name, "check that this is a recipe");
  }
  int line = 1, column = 1;
  for (size_t i = 0; i < text.size();) {
    const uint8_t c = static_cast<uint8_t>(text[i]);
    const size_t length = utf8_length(text, i);
    if (length == 0 || (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F) {
      refuse(
          "byte " + std::to_string(c) + (length == 0 ? " is not UTF-8" : " is a control character"),
          position(name, line, column), "save the recipe as UTF-8 text");
    }
    ++column;
    if (c == '\n') {
      ++line;
      column = 1;
    }
    i += length;
  }
}

// What a subtree takes.
struct Size {
  size_t num_nodes = 0;
  size_t num_bytes = 0;
  int depth = 0;
};

Size size_of_tree(const DocumentNode& node) {
  Size size{.num_nodes = 1, .num_bytes = node.text.size(), .depth = 1};
  for (const auto* children : {&node.keys, &node.items}) {
    for (const DocumentNode& child : *children) {
      const Size part = size_of_tree(child);
      size.num_nodes += part.num_nodes;
      size.num_bytes += part.num_bytes;
      size.depth = std::max(size.depth, part.depth + 1);
    }
  }
  return size;
}

constexpr const char* kTagPrefix = "tag:yaml.org,2002:";

// Builds the tree from the parser's events. Doing this here rather than walking yaml-cpp's own tree
// lets the limits act while the document is read, and shows duplicate keys, quotes and anchors.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const std::string& name, std::vector<Problem>& duplicates)
      : name_(name), duplicates_(duplicates) {}

  const DocumentNode& root() const { return root_; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    DocumentNode node = make_node(mark, DocumentNode::Kind::kScalar);
    charge(mark, {.num_nodes = 1, .depth = 1});
    finish(std::move(node), anchor, mark);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    charge(mark, {.num_nodes = 1, .num_bytes = value.size(), .depth = 1});
    DocumentNode node = make_node(mark, DocumentNode::Kind::kScalar);
    node.text = value;
    node.plain = tag == "?";
    node.scalar = node.plain ? resolve_plain_scalar(value) : resolve_tagged(tag, value, mark);
    finish(std::move(node), anchor, mark);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      refuse("the alias stands inside its own anchor", where(mark),
             "write out what the alias should repeat");
    }
    charge(mark, found->second.size);
    add(found->second.node, mark);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, "seq", anchor, DocumentNode::Kind::kList);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, "map", anchor, DocumentNode::Kind::kMap);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override {
    merge_and_find_duplicates(open_.back().node);
    close();
  }

 private:
  struct Open {
    DocumentNode node;
    YAML::anchor_t anchor;
    YAML::Mark mark;
  };
  struct Anchored {
    DocumentNode node;
    Size size;
  };

  static DocumentNode make_node(const YAML::Mark& mark, DocumentNode::Kind kind) {
    DocumentNode node;
    node.kind = kind;
    node.line = mark.line + 1;
    node.column = mark.column + 1;
    return node;
  }

  // The key of what comes next in the last of the first `num_levels` open nodes.
  std::string key_path(size_t num_levels) const {
    std::string path;
    for (size_t i = 0; i < num_levels; ++i) {
      const DocumentNode& node = open_[i].node;
      if (node.is_list()) {
        path += "[" + std::to_string(node.items.size()) + "]";
      } else if (node.keys.size() > node.items.size()) {
        path += (path.empty() ? "" : ".") + printable(node.keys.back().text);
      }
    }
    return path;
  }

  std::string where(const YAML::Mark& mark) const {
    const std::string at = position(name_, mark.line + 1, mark.column + 1),
                      path = key_path(open_.size());
    return path.empty() ? at : at + " " + path;
  }

  // Counts a subtree that is about to be stored against the limits.
  void charge(const YAML::Mark& mark, const Size& size) {
    num_nodes_ += size.num_nodes;
    num_bytes_ += size.num_bytes;
    if (static_cast<int>(open_.size()) + size.depth > kMaxYamlDepth) {
      refuse("nested more than " + std::to_string(kMaxYamlDepth) + " levels deep",
             position(name_, mark.line + 1, mark.column + 1), "a recipe needs about ten");
    }
    if (num_nodes_ > kMaxYamlNodes || num_bytes_ > kMaxExpandedBytes) {
      refuse("the recipe grows beyond " + std::to_string(kMaxYamlNodes) + " values or " +
                 std::to_string(kMaxExpandedBytes) + " bytes when its aliases are expanded",
             where(mark), "use fewer aliases of large anchors");
    }
  }

  Scalar resolve_tagged(const std::string& tag, const std::string& value, const YAML::Mark& mark) {
    if (tag == "!") return {};  // quoted
    const std::string prefix = kTagPrefix;
    if (tag.starts_with(prefix)) {
      const std::string type = tag.substr(prefix.size());
      if (type == "str") return {};
      for (const auto& [known, kind] :
           {std::pair("null", ScalarKind::kNull), std::pair("bool", ScalarKind::kBool),
            std::pair("int", ScalarKind::kInt), std::pair("float", ScalarKind::kFloat)}) {
        if (type != known) continue;
        Scalar scalar = resolve_plain_scalar(value);
        if (scalar.kind == ScalarKind::kInt && kind == ScalarKind::kFloat) {
          scalar = {.kind = kind, .float_value = static_cast<double>(scalar.int_value)};
        }
        if (scalar.kind == kind) return scalar;
        refuse("`" + printable(value) + "` is not what its tag `!!" + type + "` says", where(mark),
               "remove the tag");
      }
    }
    refuse("unknown tag `" + printable(tag) + "`", where(mark), "remove the tag");
  }

  void open(const YAML::Mark& mark, const std::string& tag, const std::string& type,
            YAML::anchor_t anchor, DocumentNode::Kind kind) {
    charge(mark, {.num_nodes = 1, .depth = 1});
    if (!tag.empty() && tag != "?" && tag != "!" && tag != kTagPrefix + type) {
      refuse("unknown tag `" + printable(tag) + "`", where(mark), "remove the tag");
    }
    open_.push_back({make_node(mark, kind), anchor, mark});
  }

  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    finish(std::move(done.node), done.anchor, done.mark);
  }

  void finish(DocumentNode node, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != 0) {
      const Size size = size_of_tree(node);
      charge(mark, size);  // the copy kept for aliases; anchors within anchors would add up unseen
      anchors_[anchor] = {node, size};
    }
    add(std::move(node), mark);
  }

  void add(DocumentNode node, const YAML::Mark& mark) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    DocumentNode& parent = open_.back().node;
    if (parent.is_list() || parent.keys.size() > parent.items.size()) {
      parent.items.push_back(std::move(node));
      return;
    }
    if (node.kind != DocumentNode::Kind::kScalar) {
      refuse("a list or a mapping is used as a key", where(mark), "keys are words");
    }
    parent.keys.push_back(std::move(node));
  }

  // Replaces the `<<` entries of a map by the entries they name, in front of the map's own.
  // modelslim_v1 counts an own key that repeats a merged one as a duplicate.
  void merge_and_find_duplicates(DocumentNode& map) {
    DocumentNode merged;
    std::vector<size_t> own;
    const auto take = [&](DocumentNode& source) {
      std::move(source.keys.begin(), source.keys.end(), std::back_inserter(merged.keys));
      std::move(source.items.begin(), source.items.end(), std::back_inserter(merged.items));
    };
    for (size_t i = 0; i < map.keys.size(); ++i) {
      if (!(map.keys[i].plain && map.keys[i].text == "<<")) {
        own.push_back(i);
        continue;
      }
      DocumentNode& source = map.items[i];
      const bool is_list_of_maps =
          source.is_list() && std::all_of(source.items.begin(), source.items.end(),
                                          [](const DocumentNode& item) { return item.is_map(); });
      if (source.is_map()) {
        take(source);
      } else if (is_list_of_maps) {
        for (DocumentNode& item : source.items) take(item);
      } else {
        refuse("`<<` merges mappings, and this is none",
               position(name_, map.keys[i].line, map.keys[i].column),
               "write `<<: *name` with the anchor of a mapping");
      }
    }
    const size_t num_merged = merged.keys.size();
    for (const size_t i : own) {
      merged.keys.push_back(std::move(map.keys[i]));
      merged.items.push_back(std::move(map.items[i]));
    }
    map.keys = std::move(merged.keys);
    map.items = std::move(merged.items);
    find_duplicates(map, num_merged);
  }

  void find_duplicates(const DocumentNode& map, size_t num_merged) {
    const std::string parent = key_path(open_.size() - 1);  // `map` is the innermost open node
    std::unordered_map<std::string, size_t> seen;
    for (size_t i = 0; i < map.keys.size(); ++i) {
      const DocumentNode& key = map.keys[i];
      const auto [first, inserted] = seen.emplace(key.text, i);
      if (inserted) continue;
      const bool overrides_merged = first->second < num_merged;
      const DocumentNode& earlier = map.keys[first->second];
      duplicates_.push_back(
          {.what = "duplicate key `" + printable(key.text) + "`" +
                   (overrides_merged ? ": `<<` already merges it from line "
                                     : ", first given on line ") +
                   std::to_string(earlier.line),
           .where = position(name_, key.line, key.column) + " " + parent +
                    (parent.empty() ? "" : ".") + printable(key.text),
           .fix = overrides_merged
                      ? "merged keys cannot be overridden: write the mapping out, or take "
                        "the key out of the anchor"
                      : "remove one of the two"});
    }
  }

  const std::string& name_;
  std::vector<Problem>& duplicates_;
  DocumentNode root_;
  std::vector<Open> open_;
  std::unordered_map<YAML::anchor_t, Anchored> anchors_;
  size_t num_nodes_ = 0;
  size_t num_bytes_ = 0;
};

// Double-quoted, for scalars that were quoted (the plain form might mean something else).
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      constexpr const char* kHex = "0123456789ABCDEF";
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string emit_scalar(const DocumentNode& node) {
  if (node.is_null()) return "null";
  const bool as_written = node.plain || node.scalar.kind != ScalarKind::kText;  // !!int "5" is 5
  return as_written && node.text.find('\n') == std::string::npos ? node.text : quoted(node.text);
}

// `first_indent` stands before the first entry: an item of a list begins on the line of its dash.
void emit_block(const DocumentNode& node, const std::string& first_indent,
                const std::string& indent, std::string& out) {
  for (size_t i = 0; i < node.items.size(); ++i) {
    const DocumentNode& item = node.items[i];
    out += i == 0 ? first_indent : indent;
    out += node.is_map() ? emit_scalar(node.keys[i]) + ":" : "-";
    if (item.kind == DocumentNode::Kind::kScalar) {
      out += " " + emit_scalar(item) + "\n";
    } else if (item.items.empty()) {
      out += item.is_map() ? " {}\n" : " []\n";
    } else if (node.is_list()) {
      emit_block(item, " ", indent + "  ", out);
    } else {
      out += "\n";
      emit_block(item, indent + "  ", indent + "  ", out);
    }
  }
}

}  // namespace

const DocumentNode* DocumentNode::find(const std::string& key) const noexcept {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].text == key) return &items[i];
  }
  return nullptr;
}

DocumentNode parse_document(const std::string& text, const std::string& name,
                            std::vector<Problem>& duplicates) {
  require_text(text, name);
  TreeBuilder builder(name, duplicates);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    DocumentNode root = builder.root();
    std::vector<Problem> ignored;
    TreeBuilder second(name, ignored);
    if (parser.HandleNextDocument(second)) {
      refuse("the file holds more than one YAML document",
             position(name, second.root().line, second.root().column), "keep one recipe a file");
    }
    return root;
  } catch (const YAML::Exception& error) {
    const bool located = !error.mark.is_null();
    refuse("not valid YAML: " + error.msg,
           located ? position(name, error.mark.line + 1, error.mark.column + 1) : name,
           "check indentation, brackets and quotes around this place");
  }
}

std::string emit_document(const DocumentNode& node) {
  if (node.kind == DocumentNode::Kind::kScalar) return emit_scalar(node) + "\n";
  if (node.items.empty()) return node.is_map() ? "{}\n" : "[]\n";
  std::string out;
  emit_block(node, "", "", out);
  return out;
}

std::string printable(const std::string& text) {
  constexpr size_t kMaxCharacters = 80;
  std::string out;
  size_t num_characters = 0;
  for (size_t i = 0; i < text.size();) {
    if (++num_characters > kMaxCharacters) return out + "...";
    const auto byte = static_cast<uint8_t>(text[i]);
    const size_t length = utf8_length(text, i);
    out += length == 0 || byte < 0x20 || byte == 0x7F ? "?" : text.substr(i, length);
    i += std::max<size_t>(length, 1);
  }
  return out;
}

}  // namespace laos::recipe
