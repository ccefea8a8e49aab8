for name in pairs(ngx.resp.get_headers(0)) do
    if name:sub(1, 9) == "domicile-" then
        ngx.header[name] = nil
    end
end
