local byte, lower, sub = string.byte, string.lower, string.sub
for name in pairs(ngx.resp.get_headers(0, true)) do
    local first = byte(name)
    if (first == 68 or first == 100) and lower(sub(name, 1, 9)) == "domicile-" then -- D d
        ngx.header[name] = nil
    end
end
