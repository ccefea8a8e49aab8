-- A guard knew better.
ngx.shared.domicile:delete(ngx.var.domicile_key)
return ngx.exec("@router")
