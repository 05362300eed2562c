-- Copyright (c) 2026, aivailable.sdai contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- Finds the model a request names. HAProxy's own json_query takes the first of two equal keys, Ollama the
-- last in any case: a request could be routed to one model and load another. So the body is read by the
-- same rules as Ollama's decoder, and whatever two readers could understand differently is refused.

local byte, find, match, lower, sub = string.byte, string.find, string.match, string.lower, string.sub

-- Tool schemas nest some 20 deep; Go's decoder stops at 10000.
local MAX_DEPTH = 512
local MAX_NAME = 256

local QUOTE, COMMA, COLON, BACKSLASH = 34, 44, 58, 92
local OBJECT, OBJECT_END, ARRAY, ARRAY_END = 123, 125, 91, 93

local ESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

-- Each of these reloads or unloads the engine of a replica, for everybody who uses it.
local TOP_LEVEL_RUNNER_KEYS = { keep_alive = true, shift = true }
local OPTION_RUNNER_KEYS = {
  num_ctx = true, num_batch = true, num_gpu = true, main_gpu = true,
  use_mmap = true, num_thread = true, draft_num_predict = true,
}

-- The text of a JSON string whose escapes were checked by read_string. A lone surrogate becomes U+FFFD, as in Go.
local function decode(raw)
  if not find(raw, "\\", 1, true) then
    return raw
  end
  local parts, at = {}, 1
  while true do
    local escape = find(raw, "\\", at, true)
    if not escape then
      parts[#parts + 1] = sub(raw, at)
      return table.concat(parts)
    end
    parts[#parts + 1] = sub(raw, at, escape - 1)
    local kind = sub(raw, escape + 1, escape + 1)
    at = escape + 2
    if kind == "u" then
      local code = tonumber(sub(raw, at, at + 3), 16)
      at = at + 4
      if code >= 0xD800 and code <= 0xDBFF then
        local low = tonumber(match(raw, "^\\u([dD][c-fC-F]%x%x)", at) or "", 16)
        if low then
          code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)
          at = at + 6
        else
          code = 0xFFFD
        end
      elseif code >= 0xDC00 and code <= 0xDFFF then
        code = 0xFFFD
      end
      parts[#parts + 1] = utf8.char(code)
    else
      parts[#parts + 1] = ESCAPES[kind]
    end
  end
end

-- Go compares keys with Unicode folding: the Kelvin sign equals k, the long s equals s. No other
-- character outside ASCII folds into it.
local function fold(key)
  return (lower(key):gsub("\u{212A}", "k"):gsub("\u{017F}", "s"))
end

-- Reads the string that opens at `at`. Returns the position behind its closing quote, or nil and why.
local function read_string(body, at)
  at = at + 1
  while true do
    at = find(body, '["\\\0-\31]', at)
    if not at then
      return nil, "incomplete"
    end
    local char = byte(body, at)
    if char == QUOTE then
      return at + 1
    elseif char ~= BACKSLASH then
      return nil, "invalid"
    elseif at + 1 > #body then
      return nil, "incomplete"
    end
    local kind = sub(body, at + 1, at + 1)
    if kind == "u" then
      if not find(body, "^%x%x%x%x", at + 2) then
        return nil, (#body < at + 5 and find(body, "^%x*$", at + 2)) and "incomplete" or "invalid"
      end
      at = at + 6
    elseif ESCAPES[kind] then
      at = at + 2
    else
      return nil, "invalid"
    end
  end
end

-- Reads a number, true, false or null at `at`. Returns the position behind it, or nil and why.
local function read_scalar(body, at)
  -- Most scalars are plain integers, by the ten thousand in an array of tokens.
  local _, last = find(body, "^[1-9]%d*[,%]}]", at)
  if last then
    return last
  end
  _, last = find(body, "^[%w+.-]+", at)
  if not last then
    return nil, "invalid"
  elseif last == #body then
    return nil, "incomplete"
  end
  local word = sub(body, at, last)
  if word == "true" or word == "false" or word == "null" then
    return last + 1
  end
  local whole, rest = match(word, "^-?(%d+)(.*)$")
  if not whole or (#whole > 1 and byte(whole) == 48) then
    return nil, "invalid"
  end
  rest = match(rest, "^%.%d+(.*)$") or rest
  rest = match(rest, "^[eE][+-]?%d+$") and "" or rest
  if rest ~= "" then
    return nil, "invalid"
  end
  return last + 1
end

-- Reads a request body. Returns its status and, when the status is ok, the value of the key "model" and the
-- places {offset, length} (offset from 0, quotes excluded) of the keys that act on the engine.
--   ok | invalid: not JSON, or not an object | incomplete: ends too early | deep: nested too deeply |
--   duplicate: two keys Ollama takes for one | type: model is no string | none: no or an empty model
local function scan(body)
  local at = find(body, "[^ \t\r\n]")
  if not at then
    return "incomplete"
  elseif byte(body, at) ~= OBJECT then
    return "invalid"
  end
  local containers, depth = { OBJECT }, 1
  local seen, duplicate, wrong_type, model = {}, false, false, nil
  local key, in_options, places = nil, false, {}
  -- What may come next: first (a key, or the end of the object just opened), key, colon, item (a value, or the
  -- end of the array just opened), value, more (a comma or an end).
  local expected = "first"
  at = at + 1
  while depth > 0 do
    at = find(body, "[^ \t\r\n]", at)
    if not at then
      return "incomplete"
    end
    local char, why = byte(body, at), nil
    if expected == "more" then
      if char == COMMA then
        expected = containers[depth] == OBJECT and "key" or "value"
      elseif char == (containers[depth] == OBJECT and OBJECT_END or ARRAY_END) then
        depth = depth - 1
      else
        return "invalid"
      end
      at = at + 1
    elseif expected == "colon" then
      if char ~= COLON then
        return "invalid"
      end
      expected, at = "value", at + 1
    elseif (expected == "first" and char == OBJECT_END) or (expected == "item" and char == ARRAY_END) then
      depth, expected, at = depth - 1, "more", at + 1
    elseif expected == "first" or expected == "key" then
      if char ~= QUOTE then
        return "invalid"
      end
      local start = at + 1
      at, why = read_string(body, at)
      if not at then
        return why
      end
      if depth == 1 then
        key = fold(decode(sub(body, start, at - 2)))
        duplicate = duplicate or seen[key] or false
        seen[key] = true
        if TOP_LEVEL_RUNNER_KEYS[key] then
          places[#places + 1] = { start - 1, at - 1 - start }
        end
      elseif depth == 2 and in_options and OPTION_RUNNER_KEYS[decode(sub(body, start, at - 2))] then
        places[#places + 1] = { start - 1, at - 1 - start }
      end
      expected = "colon"
    elseif char == OBJECT or char == ARRAY then
      if depth == 1 then
        in_options = char == OBJECT and key == "options"
        wrong_type = wrong_type or key == "model"
      end
      depth = depth + 1
      if depth > MAX_DEPTH then
        return "deep"
      end
      containers[depth] = char
      expected, at = char == OBJECT and "first" or "item", at + 1
    else
      local start = at
      if char == QUOTE then
        at, why = read_string(body, at)
      else
        at, why = read_scalar(body, at)
      end
      if not at then
        return why
      end
      if depth == 1 and key == "model" then
        if char == QUOTE then
          model = decode(sub(body, start + 1, at - 2))
        else
          wrong_type = true
        end
      end
      expected = "more"
    end
  end
  if find(body, "[^ \t\r\n]", at) then
    return "invalid"
  elseif duplicate then
    return "duplicate"
  elseif wrong_type then
    return "type"
  elseif model == nil or model == "" then
    return "none"
  end
  return "ok", model, places
end

-- The one spelling under which the frontend knows a model, or nil for what no model here can be called. A
-- part of what Ollama takes for equal: case, :latest, library/ and the default registry's host.
local function canonical(name)
  if #name > MAX_NAME or find(name, "[^%w._:/-]") then
    return nil
  end
  name = lower(name)
  name = match(name, "^registry%.ollama%.ai/([^/]+/[^/]+)$") or name
  name = match(name, "^library/([^/]+)$") or name
  if not find(name, ":[^/]*$") then
    name = name .. ":latest"
  end
  return name
end

core.register_converters("sdai_name", function(name)
  return canonical(name) or ""
end)

-- Sets txn.sdai_scan to the status, and on ok txn.sdai_model (as the client wrote it), txn.sdai_name
-- (canonical, empty when impossible) and txn.sdai_places ("offset,length;…").
core.register_action("sdai_route", { "http-req" }, function(txn)
  local body = txn.f:req_body() or ""
  local status, model, places = scan(body)
  if txn.f:req_body_size() > #body then
    status = "large"
  elseif status == "incomplete" and txn.f:req_hdr("transfer-encoding") and #body > 128 * 1024 then
    -- A chunked body says no size: HAProxy stops reading when its buffer is full.
    status = "large"
  end
  txn:set_var("txn.sdai_scan", status)
  if status ~= "ok" then
    return
  end
  txn:set_var("txn.sdai_model", model)
  txn:set_var("txn.sdai_name", canonical(model) or "")
  local list = {}
  for index, place in ipairs(places) do
    list[index] = place[1] .. "," .. place[2]
  end
  txn:set_var("txn.sdai_places", table.concat(list, ";"))
end, 0)

-- HAProxy takes a server for good until its first check, up to a second after each start and reload: long
-- enough to serve from a replica that left its VRAM. So a request waits until its model's servers were checked.
local checked = {}
core.register_action("sdai_wait_checked", { "http-req" }, function(txn)
  local name = txn:get_var("txn.sdai_backend")
  for _ = 1, 250 do
    if checked[name] then
      return
    end
    local all = true
    for _, server in pairs(core.backends[name].servers) do
      all = all and not find(server:get_stats()["check_status"], "INI", 1, true)
    end
    checked[name] = all
    if not all then
      -- A process that the next reload replaces checks no more.
      if core.get_info()["Stopping"] == 1 then
        return
      end
      core.msleep(20)
    end
  end
end, 0)

-- Renames the keys that sdai_route found to unknown ones of the same length, which Ollama ignores. The whole
-- body is in the buffer by then, so offsets count from its first byte.
local Neutralise = { id = "sdai-neutralise", flags = filter.FLT_CFG_FL_HTX }
Neutralise.__index = Neutralise

function Neutralise:new()
  return setmetatable({}, Neutralise)
end

function Neutralise:http_headers(txn, message)
  local places = not message.channel:is_resp() and txn:get_var("txn.sdai_places")
  if places and places ~= "" and find(txn.f:path(), "^/api/") then
    self.places = places
    filter.register_data_filter(self, message.channel)
  end
  return filter.CONTINUE
end

function Neutralise:http_payload(_, message)
  for offset, length in string.gmatch(self.places or "", "(%d+),(%d+)") do
    length = tonumber(length)
    if message:set(string.rep("_", length), tonumber(offset), length) ~= length then
      return filter.ERROR
    end
  end
  self.places = nil
end

core.register_filter("sdai-neutralise", Neutralise, function(class)
  return class
end)
