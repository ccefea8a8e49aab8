-- Who a request is for: by what was decided before, held in memory by the digest of its proofs.
local decided = ngx.shared.domicile

local read_by_routers = { ["domicile-token"] = true, ["x-forwarded-for"] = true }
local function forged(name)
    return (name:sub(1, 9) == "domicile-" or name:sub(1, 12) == "x-forwarded-") and not read_by_routers[name]
end

local fields = ngx.req.get_headers(0)
for name in pairs(fields) do
    if forged(name) then
        ngx.req.clear_header(name)
    end
end
local token = fields["domicile-token"]
if type(token) == "table" then
    return ngx.exec("@router") -- which refuses
end
ngx.var.domicile_token = token or ""
if ngx.var.domicile_first ~= "ask" then
    return ngx.exec("@router")
end
ngx.var.domicile_key = ngx.encode_base64(ngx.sha1_bin(ngx.var.domicile_proofs))
local known = decided:get(ngx.var.domicile_key)
if known then
    local cell, subject, epoch = known:match("^(%S+) (%S+) (%S+)$")
    ngx.var.domicile_cell, ngx.var.domicile_subject, ngx.var.domicile_epoch = cell, subject, epoch
    return ngx.exec("@" .. ngx.var.domicile_way)
end
