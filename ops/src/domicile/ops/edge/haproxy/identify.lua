-- Who a request is for: a router's answer, kept by the digest of the request's proofs for as long as that says.
-- Where that one lives is not kept here: a map says so, which follows the directory.
local cookies = { @COOKIES@ }
local ask_at = "unix@@ASK@"
local most = @MOST@
local seconds_to_ask = 3
local young, old, count = {}, {}, 0

local function remember(key, entry)
    if count >= most then
        old, young, count = young, {}, 0
    end
    young[key], count = entry, count + 1
end

local function values_of(headers, name)
    local found, values = {}, headers[name]
    if values then
        for index = 0, #values do
            found[#found + 1] = values[index]
        end
    end
    return found
end

local function read(txn)
    local headers = txn.http:req_get_headers()
    local authorization = values_of(headers, "authorization")
    local tokens = values_of(headers, "domicile-token")
    if #authorization > 1 or #tokens > 1 then
        return nil -- a router is shown all of them, and refuses
    end
    local cookie = table.concat(values_of(headers, "cookie"), "; ")
    local proofs = { authorization[1] or "", tokens[1] or "" }
    for pair in cookie:gmatch("[^;]+") do
        local name, value = pair:match("^%s*(.-)%s*=(.*)$")
        if name and cookies[name] then
            proofs[#proofs + 1] = name .. "=" .. value
        end
    end
    if #proofs == 2 and proofs[1] == "" and proofs[2] == "" then
        return nil
    end
    return proofs, cookie, headers
end

local function ask(txn, proofs, cookie, headers)
    local method = txn.sf:method()
    local safe = method == "GET" or method == "HEAD" or method == "OPTIONS"
    local question = {
        (safe and "GET" or "POST") .. " @DECIDE@" .. txn.sf:pathq() .. " HTTP/1.1",
        "Host: " .. (values_of(headers, "host")[1] or ""), "Connection: close", "Content-Length: 0",
    }
    for name, value in pairs({ Authorization = proofs[1], ["Domicile-Token"] = proofs[2], Cookie = cookie }) do
        if value ~= "" then
            question[#question + 1] = name .. ": " .. value
        end
    end
    local socket = core.tcp()
    socket:settimeout(seconds_to_ask)
    if not socket:connect(ask_at) then
        return nil
    end
    socket:send(table.concat(question, "\r\n") .. "\r\n\r\n")
    local status = socket:receive("*l")
    local subject, seconds
    local line = status and socket:receive("*l")
    while line and line ~= "" and line ~= "\r" do
        local name, value = line:match("^([^:]+):%s*(.-)%s*$")
        name = name and name:lower()
        if name == "domicile-subject-key" then
            subject = value
        elseif name == "cache-control" then
            seconds = tonumber(value:match("^max%-age=(%d+)$"))
        end
        line = socket:receive("*l")
    end
    socket:close()
    if status and status:match("^HTTP/1%.1 200") then
        return subject, seconds
    end
end

core.register_action("domicile", { "http-req" }, function(txn)
    local proofs, cookie, headers = read(txn)
    if not proofs then
        return
    end
    local key = txn.c:sha2(table.concat(proofs, "\n"), 256)
    local now = core.now().sec
    local known = young[key]
    if not known and old[key] then
        known = old[key]
        remember(key, known)
    end
    if known and known[2] > now then
        txn:set_var("txn.subject", known[1])
        return
    end
    local subject, seconds = ask(txn, proofs, cookie, headers)
    if subject then
        if seconds then
            remember(key, { subject, now + seconds })
        end
        txn:set_var("txn.subject", subject)
    end
end, 0)
