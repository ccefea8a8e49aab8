-- A guard knew better.
ngx.shared.domicile:delete(ngx.sha1_bin(ngx.var.domicile_proofs))
return ngx.exec("@router")
