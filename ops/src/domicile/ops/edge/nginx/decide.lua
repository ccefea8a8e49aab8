-- Who a request is for: by what was decided before, held in memory by the digest of its proofs.
-- Each request runs through here: no patterns, which LuaJIT does not compile, and few of nginx's variables.
local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub
local variables, decided = ngx.var, ngx.shared.domicile

local token
for name, value in pairs(ngx.req.get_headers(0, true)) do
    local first = byte(name)
    if first == 68 or first == 100 or first == 88 or first == 120 then -- D d X x
        local known_as = lower(name)
        if known_as == "domicile-token" then
            if token or type(value) == "table" then
                return ngx.exec("@router") -- which refuses
            end
            token = value
        elseif known_as ~= "x-forwarded-for" -- a router reads it
            and (sub(known_as, 1, 9) == "domicile-" or sub(known_as, 1, 12) == "x-forwarded-") then
            ngx.req.clear_header(name)
        end
    end
end
variables.domicile_token = token or ""
if variables.domicile_first ~= "ask" then
    return ngx.exec("@router")
end
local known = decided:get(ngx.sha1_bin(variables.domicile_proofs))
if known then
    local cell_ends = find(known, " ", 1, true)
    local subject_ends = find(known, " ", cell_ends + 1, true)
    variables.domicile_cell = sub(known, 1, cell_ends - 1)
    variables.domicile_subject = sub(known, cell_ends + 1, subject_ends - 1)
    variables.domicile_epoch = sub(known, subject_ends + 1)
    if variables.domicile_upstream == "" then
        return ngx.exec("@router")
    end
    return ngx.exec("@" .. variables.domicile_sent)
end
