-- What a router decided is kept for as long as it says, and no longer.
local seconds = tonumber((ngx.var.domicile_keeps or ""):match("^max%-age=(%d+)$"))
local cell, subject, epoch = ngx.var.domicile_cell, ngx.var.domicile_subject, ngx.var.domicile_epoch
if seconds and seconds > 0 and cell and cell ~= "" then
    ngx.shared.domicile:set(ngx.var.domicile_key, cell .. " " .. subject .. " " .. epoch, seconds)
end
