#include "recipe/rewrite.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "recipe/yaml_document.h"

namespace laos::recipe {
namespace {

using Kind = DocumentNode::Kind;

DocumentNode scalar(const std::string& text, bool plain = true) {
  DocumentNode node;
  node.scalar = plain ? resolve_plain_scalar(text) : Scalar{.kind = ScalarKind::kText};
  node.text = text;
  node.plain = plain;
  return node;
}

DocumentNode* find(DocumentNode& map, const std::string& key) {
  return const_cast<DocumentNode*>(std::as_const(map).find(key));
}

void set(DocumentNode& map, const std::string& key, DocumentNode value) {
  if (DocumentNode* found = find(map, key)) {
    *found = std::move(value);
    return;
  }
  map.kind = Kind::kMap;
  map.keys.push_back(scalar(key));
  map.items.push_back(std::move(value));
}

void erase(DocumentNode& map, const std::string& key) {
  for (size_t i = 0; i < map.keys.size(); ++i) {
    if (map.keys[i].text != key) continue;
    map.keys.erase(map.keys.begin() + static_cast<std::ptrdiff_t>(i));
    map.items.erase(map.items.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
}

// As the reader does: what stands in a group stands in its place.
void flatten(const DocumentNode& list, std::vector<DocumentNode>& processors) {
  for (const DocumentNode& item : list.items) {
    const DocumentNode* type = item.find("type");
    if (type != nullptr && type->text == "group")
      flatten(*item.find("configs"), processors);
    else
      processors.push_back(item);
  }
}

std::string dtype_of(int bits) { return bits == 16 ? "float" : "int" + std::to_string(bits); }

bool has_widths(const DocumentNode& qconfig, const NewStrategy& strategy) {
  const auto is = [&](const char* side, int bits) {
    const DocumentNode* map = qconfig.find(side);
    const DocumentNode* dtype = map == nullptr ? nullptr : map->find("dtype");
    return dtype != nullptr && dtype->text == dtype_of(bits);
  };
  return is("weight", strategy.weight_bits) && is("act", strategy.act_bits);
}

// Of the quantizer's own: the one of these widths, or its first with the widths put in.
DocumentNode qconfig_of(const std::vector<const DocumentNode*>& qconfigs,
                        const NewStrategy& strategy) {
  for (const DocumentNode* qconfig : qconfigs)
    if (has_widths(*qconfig, strategy)) return *qconfig;
  LAOS_ASSERT(!qconfigs.empty());
  DocumentNode result = *qconfigs.front();
  for (const auto& [side, bits] :
       {std::pair{"weight", strategy.weight_bits}, std::pair{"act", strategy.act_bits}})
    if (DocumentNode* map = find(result, side)) set(*map, "dtype", scalar(dtype_of(bits)));
  return result;
}

DocumentNode list_of(const std::vector<std::string>& texts) {
  DocumentNode list;
  list.kind = Kind::kList;
  for (const std::string& text : texts) list.items.push_back(scalar(text, false));
  return list;
}

// The processors that stand for one quantizer.
std::vector<DocumentNode> rewritten(const DocumentNode& processor,
                                    const std::vector<NewStrategy>& strategies) {
  std::vector<const DocumentNode*> qconfigs;
  const DocumentNode* list = processor.find("strategies");
  if (list != nullptr)
    for (const DocumentNode& strategy : list->items)
      if (const DocumentNode* qconfig = strategy.find("qconfig"); qconfig && qconfig->is_map())
        qconfigs.push_back(qconfig);
  if (const DocumentNode* qconfig = processor.find("qconfig")) qconfigs.push_back(qconfig);

  std::vector<DocumentNode> result;
  DocumentNode new_list;
  new_list.kind = Kind::kList;
  for (const NewStrategy& strategy : strategies) {
    if (strategy.include.empty()) continue;
    DocumentNode entry;
    if (list == nullptr) {
      entry = processor;
      erase(entry, "exclude");
    }
    set(entry, "qconfig", qconfig_of(qconfigs, strategy));
    set(entry, "include", list_of(strategy.include));
    (list == nullptr ? result : new_list.items).push_back(std::move(entry));
  }
  if (list != nullptr && !new_list.items.empty()) {
    result.push_back(processor);
    set(result.back(), "strategies", std::move(new_list));
  }
  return result;
}

}  // namespace

std::string with_strategies(const Recipe& recipe,
                            const std::vector<std::vector<NewStrategy>>& by_processor,
                            const std::string& config_id,
                            const std::optional<std::string>& dataset) {
  std::vector<Problem> duplicates;
  const DocumentNode whole = parse_document(recipe.yaml, recipe.path.string(), duplicates);
  DocumentNode root;
  for (const char* key : {"apiversion", "metadata", "spec"})
    if (const DocumentNode* found = whole.find(key)) set(root, key, *found);
  if (find(root, "metadata") == nullptr) {
    DocumentNode metadata;
    set(metadata, "config_id", scalar(config_id, false));
    set(root, "metadata", std::move(metadata));
  }
  set(*find(root, "metadata"), "config_id", scalar(config_id, false));

  DocumentNode& spec = *find(root, "spec");
  std::vector<DocumentNode> processors;
  flatten(*spec.find("process"), processors);
  LAOS_ASSERT(processors.size() == by_processor.size());
  DocumentNode process;
  process.kind = Kind::kList;
  for (size_t i = 0; i < processors.size(); ++i) {
    const bool quantizes =
        processors[i].find("strategies") != nullptr || processors[i].find("qconfig") != nullptr;
    if (!quantizes)
      process.items.push_back(std::move(processors[i]));
    else
      for (DocumentNode& node : rewritten(processors[i], by_processor[i]))
        process.items.push_back(std::move(node));
  }
  set(spec, "process", std::move(process));
  if (dataset) set(spec, "dataset", scalar(*dataset, false));
  return emit_document(root);
}

namespace {

// The YAML of `recipe` with what `edit` makes of its spec.
template <class Edit>
std::string with_spec(const Recipe& recipe, const Edit& edit) {
  std::vector<Problem> duplicates;
  DocumentNode root = parse_document(recipe.yaml, recipe.path.string(), duplicates);
  if (DocumentNode* spec = find(root, "spec")) edit(*spec);
  return emit_document(root);
}

void set_flatquant(DocumentNode& processors, std::optional<bool> clip,
                   const std::vector<int64_t>& tp) {
  for (DocumentNode& processor : processors.items) {
    const DocumentNode* type = processor.find("type");
    if (type == nullptr) continue;
    if (DocumentNode* configs = find(processor, "configs"); configs && type->text == "group")
      set_flatquant(*configs, clip, tp);
    if (type->text != "flatquant") continue;
    if (clip) set(processor, "clip", scalar(*clip ? "true" : "false"));
    if (tp.empty()) continue;
    DocumentNode sizes = scalar(std::to_string(tp.front()));
    if (tp.size() > 1) {
      sizes = DocumentNode();
      sizes.kind = Kind::kList;
      for (const int64_t size : tp) sizes.items.push_back(scalar(std::to_string(size)));
    }
    set(processor, "tp", sizes);
  }
}

}  // namespace

std::string with_savers(const Recipe& recipe, const std::vector<std::string>& types) {
  return with_spec(recipe, [&](DocumentNode& spec) {
    DocumentNode* savers = find(spec, "save");
    if (savers == nullptr || savers->items.empty()) return;
    savers->items.assign(types.size(), DocumentNode(savers->items.front()));
    for (size_t i = 0; i < types.size(); ++i) set(savers->items[i], "type", scalar(types[i]));
  });
}

std::string with_flatquant(const Recipe& recipe, std::optional<bool> clip,
                           const std::vector<int64_t>& tp) {
  return with_spec(recipe, [&](DocumentNode& spec) {
    if (DocumentNode* process = find(spec, "process")) set_flatquant(*process, clip, tp);
  });
}

std::string with_int8_cache(const Recipe& recipe) {
  return with_spec(recipe, [](DocumentNode& spec) {
    DocumentNode cache;
    set(cache, "dtype", scalar("int8"));
    set(spec, "kv_cache", std::move(cache));
  });
}

std::vector<std::string> layer_patterns(std::string_view prefix, const std::set<int64_t>& layers,
                                        std::string_view module) {
  // Patterns have 200 characters at most.
  constexpr size_t kMaxLayersText = 120;
  std::vector<std::string> runs;
  for (auto first = layers.begin(); first != layers.end();) {
    auto last = first;
    while (std::next(last) != layers.end() && *std::next(last) == *last + 1) ++last;
    const std::string begin = std::to_string(*first), end = std::to_string(*last);
    // Two in a row are shorter written out.
    if (*last == *first)
      runs.push_back(begin);
    else if (*last == *first + 1)
      runs.insert(runs.end(), {begin, end});
    else
      runs.push_back("{" + begin + ".." + end + "}");
    first = std::next(last);
  }
  std::vector<std::string> patterns;
  for (size_t i = 0; i < runs.size();) {
    std::string text = runs[i++];
    bool several = false;
    for (; i < runs.size() && text.size() + runs[i].size() < kMaxLayersText; ++i) {
      text += "," + runs[i];
      several = true;
    }
    std::string pattern(prefix);
    pattern += "." + (several ? "{" + text + "}" : text) + ".";
    patterns.push_back(pattern.append(module));
  }
  return patterns;
}

}  // namespace laos::recipe
